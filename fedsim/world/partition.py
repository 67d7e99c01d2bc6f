"""Who owns which example: splits by `flwr_datasets.partitioner`, made once and cached.

A `Split` is a value; `assign` turns it into client numbers. Clients may be unequal, and empty.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.core.cache import cached
from fedsim.core.dataset import Clients, Dataset, Split
from fedsim.core.errors import InputError, at_least, positive
from fedsim.core.rng import Purpose, derived_seed, numpy_stream

Partitioner = Callable[[int, int], Any]
"""(population, seed) -> a partitioner of flwr_datasets over the column `label`."""


def iid() -> Split:
    """Examples dealt at random, as evenly as can be."""

    def make(population: int, seed: int) -> Any:
        from flwr_datasets.partitioner import IidPartitioner

        return IidPartitioner(num_partitions=population)

    return _dealt("iid", make)


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

    return _dealt(f"dirichlet({float(alpha)!r})", make)


def pathological(classes_per_client: int) -> Split:
    """Each client has examples of just so many classes (McMahan et al., 2017, arXiv:1602.05629).

    Examples of a class that no client drew are nobody's.

    Raises:
        InputError: classes_per_client is below 1.
    """
    at_least("pathological", 1, "Use 2 as in the paper.", classes_per_client=classes_per_client)

    def make(population: int, seed: int) -> Any:
        from flwr_datasets.partitioner import PathologicalPartitioner

        return PathologicalPartitioner(population, "label", classes_per_client, "random", seed=seed)

    return _dealt(f"pathological({classes_per_client})", make)


def shards(per_client: int) -> Split:
    """Examples sorted by label and cut into shards; each client gets `per_client` of them.

    Examples left over when the shards are cut are nobody's.

    Raises:
        InputError: per_client is below 1.
    """
    at_least("shards", 1, "Use 2 as in McMahan et al. (2017).", per_client=per_client)

    def make(population: int, seed: int) -> Any:
        from flwr_datasets.partitioner import ShardPartitioner

        return ShardPartitioner(population, "label", num_shards_per_partition=per_client, seed=seed)

    return _dealt(f"shards({per_client})", make)


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

    return _dealt(f"sizes({law})", make)


def natural() -> Split:
    """Every example stays with the owner it has by nature (a writer, a device).

    Client numbers follow the sorted owner names; a population smaller than the number of owners
    takes a random subset of them, and the other owners' examples are nobody's.
    """
    return Split(name="natural", assign=_natural)


def given(clients: Clients) -> Split:
    """The client number of each training example, as it is; numbers left out are empty clients."""

    def assign(dataset: Dataset, population: int, seed: int) -> tuple[Clients, None]:
        count = len(dataset.train.y)
        if len(clients) != count or not count or clients.min() < -1 or clients.max() >= population:
            raise InputError(
                f"given: clients must be {count} numbers from -1 to {population - 1}; got "
                f"{len(clients)}: {clients[:3]}... Give one for each example."
            )
        return clients, None

    return Split(name="given", assign=assign)


def _dealt(name: str, make: Partitioner) -> Split:
    """A split by a partitioner, which is asked once and then remembered."""

    def assign(dataset: Dataset, population: int, seed: int) -> tuple[Clients, None]:
        at_least("split", 1, "Give a population of one or more.", population=population)
        if population > len(dataset.train.y):
            raise InputError(
                "split: population must be at most the number of examples, "
                f"{len(dataset.train.y)}; got {population}. Use a smaller --population."
            )
        key = f"{name}|{population}|{seed}|{dataset.fingerprint()}"
        dealt = cached(
            "split", key, lambda: {"client": _deal(name, make, dataset, population, seed)}
        )
        return dealt["client"], None

    return Split(name=name, assign=assign)


def _deal(name: str, make: Partitioner, dataset: Dataset, population: int, seed: int) -> Clients:
    """Ask the partitioner whose each example is, on a table of labels and row numbers only."""
    import datasets

    order = numpy_stream(seed, Purpose.SPLIT).permutation(len(dataset.train.y))
    table = datasets.Dataset.from_dict({"label": dataset.train.y.numpy()[order], "row": order})
    # Partitioners of this library read 32-bit seeds.
    partitioner = make(population, derived_seed(seed, Purpose.SPLIT) % (1 << 32))
    partitioner.dataset = table
    client = np.full(len(order), -1, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for number in range(population):
                client[np.asarray(partitioner.load_partition(number)["row"], dtype=int)] = number
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(
                f"split: {name} must be possible for {population} clients of {dataset.name}; got: "
                f"{str(error).splitlines()[0]} Change the split or --population."
            ) from error
    return client


def _natural(dataset: Dataset, population: int, seed: int) -> tuple[Clients, Clients | None]:
    at_least("split", 1, "Give a population of one or more.", population=population)
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

    def numbers(owners: NDArray[np.str_]) -> Clients:
        place = np.searchsorted(names, owners).clip(max=len(names) - 1)
        return np.where(names[place] == owners, place, -1)

    test = None if dataset.test_owners is None else numbers(dataset.test_owners)
    return numbers(dataset.train_owners), test
