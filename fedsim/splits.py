"""Who owns which example: splits by `flwr_datasets.partitioner`, made once and cached.

A `Split` is a value; `assign` turns it into client numbers. Clients may be unequal, and empty.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data import Dataset
from fedsim.data.files import cached
from fedsim.rng import Purpose, derived_seed, numpy_stream
from fedsim.validate import InputError, at_least, positive


@dataclass(frozen=True, kw_only=True)
class Split:
    """How examples are dealt to clients.

    partitioner: (population, seed) -> a partitioner of flwr_datasets; None for natural owners.
    """

    name: str
    partitioner: Callable[[int, int], Any] | None


def iid() -> Split:
    """Examples dealt at random, as evenly as can be."""

    def make(population: int, seed: int) -> Any:
        from flwr_datasets.partitioner import IidPartitioner

        return IidPartitioner(num_partitions=population)

    return Split(name="iid", partitioner=make)


def dirichlet(alpha: float) -> Split:
    """Each class is shared out by proportions drawn from Dirichlet(alpha); small is less alike.

    Source: Hsu, Qi, Brown (2019), arXiv:1909.06335; Yurochkin et al. (2019), arXiv:1905.12022.

    Raises:
        InputError: alpha is not above 0.
    """
    positive(
        "dirichlet", "Use 0.1 for very unlike clients, 100 for nearly equal ones.", alpha=alpha
    )

    def make(population: int, seed: int) -> Any:
        from flwr_datasets.partitioner import DirichletPartitioner

        return DirichletPartitioner(population, "label", float(alpha), 0, seed=seed)

    return Split(name=f"dirichlet({alpha:g})", partitioner=make)


def pathological(classes_per_client: int) -> Split:
    """Each client has examples of just so many classes (McMahan et al., 2017, arXiv:1602.05629).

    Raises:
        InputError: classes_per_client is below 1.
    """
    at_least("pathological", 1, "Use 2 as in the paper.", classes_per_client=classes_per_client)

    def make(population: int, seed: int) -> Any:
        from flwr_datasets.partitioner import PathologicalPartitioner

        return PathologicalPartitioner(population, "label", classes_per_client, "random", seed=seed)

    return Split(name=f"pathological({classes_per_client})", partitioner=make)


def shards(per_client: int) -> Split:
    """Examples sorted by label and cut into shards; each client gets `per_client` of them.

    Raises:
        InputError: per_client is below 1.
    """
    at_least("shards", 1, "Use 2 as in McMahan et al. (2017).", per_client=per_client)

    def make(population: int, seed: int) -> Any:
        from flwr_datasets.partitioner import ShardPartitioner

        return ShardPartitioner(population, "label", num_shards_per_partition=per_client, seed=seed)

    return Split(name=f"shards({per_client})", partitioner=make)


def sizes(law: Literal["linear", "square", "exponential"]) -> Split:
    """Examples at random, client i getting a share that grows as i, i^2 or e^i.

    Raises:
        InputError: the law is none of these.
    """
    if law not in ("linear", "square", "exponential"):
        raise InputError(
            f"sizes: law must be linear, square or exponential; got {law!r}. Pick one."
        )

    def make(population: int, seed: int) -> Any:
        from flwr_datasets import partitioner

        named = {
            "linear": partitioner.LinearPartitioner,
            "square": partitioner.SquarePartitioner,
            "exponential": partitioner.ExponentialPartitioner,
        }
        return named[law](population)

    return Split(name=f"sizes({law})", partitioner=make)


def natural() -> Split:
    """Every example stays with the owner it has by nature (a writer, a device)."""
    return Split(name="natural", partitioner=None)


def assign(
    split: Split, dataset: Dataset, population: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """The client of each training example [n], and of each test example where it has an owner.

    With natural owners, client numbers follow the sorted owner names; a population smaller than
    the number of owners takes a random subset of them, and the rest of the examples get -1.

    Raises:
        InputError: the dataset has no owners, or too few owners or examples for the population.
    """
    at_least("split", 1, "Give a population of one or more.", population=population)
    if split.partitioner is None:
        return _natural(dataset, population, seed)
    if population > len(dataset.train.y):
        raise InputError(
            f"split: population must be at most the number of examples, {len(dataset.train.y)}; "
            f"got {population}. Use a smaller --population."
        )
    key = f"{split.name}|{population}|{seed}|{dataset.fingerprint()}"
    return cached("split", key, lambda: _deal(split, dataset, population, seed))["client"], None


def _deal(
    split: Split, dataset: Dataset, population: int, seed: int
) -> dict[str, NDArray[np.int64]]:
    """Ask the partitioner whose each example is, on a table of labels and row numbers only."""
    import datasets

    if split.partitioner is None:
        raise ValueError("natural owners are not dealt")
    order = numpy_stream(seed, Purpose.SPLIT).permutation(len(dataset.train.y))
    table = datasets.Dataset.from_dict({"label": dataset.train.y.numpy()[order], "row": order})
    # Partitioners of this library read 32-bit seeds.
    partitioner = split.partitioner(population, derived_seed(seed, Purpose.SPLIT) % (1 << 32))
    partitioner.dataset = table
    client = np.full(len(order), -1, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for number in range(population):
                client[np.asarray(partitioner.load_partition(number)["row"], dtype=int)] = number
        except ValueError as error:
            raise InputError(
                f"split: {split.name} must be possible for {population} clients of "
                f"{dataset.name}; got: {str(error).splitlines()[0]} Change --population."
            ) from error
    return {"client": client}


def _natural(
    dataset: Dataset, population: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    if dataset.train_owners is None:
        raise InputError(
            f"split: natural must be used on data with owners; got {dataset.name}. "
            "Use splits.dirichlet, or data such as femnist."
        )
    names = np.unique(dataset.train_owners)
    if population > len(names):
        raise InputError(
            f"split: population must be at most the number of owners, {len(names)}; "
            f"got {population}. Use --population {len(names)} or fewer."
        )
    if population < len(names):
        names = np.sort(numpy_stream(seed, Purpose.SPLIT).permutation(names)[:population])

    def numbers(owners: NDArray[np.str_]) -> NDArray[np.int64]:
        place = np.searchsorted(names, owners).clip(max=len(names) - 1)
        return np.where(names[place] == owners, place, -1)

    test = None if dataset.test_owners is None else numbers(dataset.test_owners)
    return numbers(dataset.train_owners), test
