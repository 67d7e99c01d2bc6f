"""Which client owns which training example: the usual ways to partition a dataset.

A `Split` is a value; `assign` turns it into client numbers. Clients may be unequal in size, and
empty where the rule allows it.

Guarantees:
    `iid`, `dirichlet`, `pathological`, `shards` and `sizes` give every client exactly the examples
    that the partitioner of that name in flwr_datasets 0.6 gives it, from the same seed and the same
    order of the examples. flwr_datasets then shuffles the examples of each client, and we do not:
    ownership has no order, and in which order a client sees its examples is the batch plan's.

Shapes: n training examples, N clients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.core.dataset import Clients, Dataset, Split
from fedsim.core.errors import InputError, at_least, positive
from fedsim.core.rng import Purpose, derived_seed, numpy_stream

Labels = NDArray[np.int64]
Deal = Callable[[Labels, int, np.random.Generator], Clients]
"""(labels [n] in random order, N, generator) -> the client of each example [n].

Raises `_Impossible` where the rule cannot be kept.
"""

_LAWS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "linear": lambda number: number,
    "square": np.square,
    "exponential": np.exp,
}


class _Impossible(Exception):
    """Why a rule cannot be kept for these labels and this many clients."""


def iid() -> Split:
    """Random examples for every client, in numbers that differ by one at most."""

    def deal(labels: Labels, population: int, stream: np.random.Generator) -> Clients:
        least, larger = divmod(len(labels), population)
        return _repeat(least + (np.arange(population) < larger))

    return _random_split("iid", deal)


def dirichlet(alpha: float) -> Split:
    """Divide each class by shares drawn from Dirichlet(alpha); a small alpha makes clients unlike.

    Source: Hsu, Qi, Brown (2019), arXiv:1909.06335; Yurochkin et al. (2019), arXiv:1905.12022.

    Raises:
        InputError: alpha is not above 0.
    """
    positive(
        "dirichlet", "Use 0.1 for very unlike clients, 100 for nearly equal ones.", alpha=alpha
    )

    def deal(labels: Labels, population: int, stream: np.random.Generator) -> Clients:
        client = np.empty_like(labels)
        for label in np.unique(labels):
            examples = np.flatnonzero(labels == label)
            shares = stream.dirichlet(np.full(population, float(alpha)))
            ends = (np.cumsum(shares) * len(examples)).astype(np.int64)
            ends[-1] = len(examples)  # the last client gets what rounding left over
            client[examples] = _repeat(np.diff(ends, prepend=0))
        return client

    return _random_split(f"dirichlet({float(alpha)!r})", deal)


def pathological(classes_per_client: int) -> Split:
    """Give each client examples of exactly this many classes, drawn at random.

    Examples of a class that no client drew belong to no client.

    Source: McMahan et al. (2017), arXiv:1602.05629; Li et al. (2022), arXiv:2102.02079.

    Raises:
        InputError: classes_per_client is below 1.
    """
    at_least("pathological", 1, "Use 2 as in the paper.", classes_per_client=classes_per_client)

    def deal(labels: Labels, population: int, stream: np.random.Generator) -> Clients:
        classes = np.unique(labels)
        if classes_per_client > len(classes):
            raise _Impossible(f"there are only {len(classes)} classes.")
        drawn = np.stack(
            [stream.choice(classes, classes_per_client, replace=False) for _ in range(population)]
        )
        client = np.full_like(labels, -1)
        for label in classes:
            owners = np.flatnonzero((drawn == label).any(axis=1))
            examples = np.flatnonzero(labels == label)
            if len(owners) > len(examples):
                raise _Impossible(
                    f"{len(owners)} clients drew class {label}, which has {len(examples)} examples."
                )
            if len(owners):
                least, larger = divmod(len(examples), len(owners))
                client[examples] = owners[_repeat(least + (np.arange(len(owners)) < larger))]
        return client

    return _random_split(f"pathological({classes_per_client})", deal)


def shards(per_client: int) -> Split:
    """Sort examples by label, cut them into equal shards, give each client `per_client` of them.

    Examples left over when the shards are cut belong to no client.

    Source: McMahan et al. (2017), arXiv:1602.05629, section 3.

    Raises:
        InputError: per_client is below 1.
    """
    at_least("shards", 1, "Use 2 as in McMahan et al. (2017).", per_client=per_client)

    def deal(labels: Labels, population: int, stream: np.random.Generator) -> Clients:
        needed = population * per_client
        size = len(labels) // needed
        if size == 0:
            raise _Impossible(f"{needed} shards are more than the {len(labels)} examples.")
        available = len(labels) // size
        owner = np.full(available, -1)
        owner[stream.permutation(available)[:needed]] = np.arange(needed) // per_client
        by_label = np.argsort(labels, kind="stable")[: available * size]
        client = np.full_like(labels, -1)
        client[by_label] = np.repeat(owner, size)
        return client

    return _random_split(f"shards({per_client})", deal)


def sizes(law: Literal["linear", "square", "exponential"]) -> Split:
    """Random examples, in numbers that grow with the client's number i as i, i^2 or e^i.

    The last client also gets what rounding leaves over.

    Raises:
        InputError: the law is none of these.
    """
    if law not in _LAWS:
        raise InputError(
            f"sizes: law must be linear, square or exponential; got {law!r}. Pick one."
        )

    def deal(labels: Labels, population: int, stream: np.random.Generator) -> Clients:
        with np.errstate(over="ignore", invalid="ignore"):  # e^i, of more than 709 clients
            weights = _LAWS[law](np.arange(1.0, population + 1))
            shares = np.nan_to_num(weights / weights.sum())
        counts = (shares * len(labels)).astype(np.int64)
        counts[-1] += len(labels) - counts.sum()
        if counts.min() < 1:
            raise _Impossible("some clients would have no example.")
        return _repeat(counts)

    return _random_split(f"sizes({law})", deal)


def natural() -> Split:
    """Every example stays with its natural owner (a writer, a device).

    Client numbers follow the sorted owner names; a population smaller than the number of owners
    takes a random subset of them, and the other owners' examples belong to no client.
    """
    return Split(name="natural", assign=_natural)


def given(clients: Clients) -> Split:
    """Use this client number for each training example; numbers left out are empty clients."""

    def assign(dataset: Dataset, population: int, seed: int) -> tuple[Clients, None]:
        count = len(dataset.train.y)
        if len(clients) != count or not count or clients.min() < -1 or clients.max() >= population:
            raise InputError(
                f"given: clients must be {count} numbers from -1 to {population - 1}; got "
                f"{len(clients)}: {clients[:3]}... Give one for each example."
            )
        return clients, None

    return Split(name="given", assign=assign)


def _random_split(name: str, deal: Deal) -> Split:
    """A split that deals the training examples by this rule, after shuffling them."""

    def assign(dataset: Dataset, population: int, seed: int) -> tuple[Clients, None]:
        count = len(dataset.train.y)
        at_least("split", 1, "Give a population of one or more.", population=population)
        if population > count:
            raise InputError(
                f"split: population must be at most the number of examples, {count}; "
                f"got {population}. Use a smaller --population."
            )
        order = numpy_stream(seed, Purpose.SPLIT).permutation(count)
        # Seeds of flwr_datasets have 32 bits.
        stream = np.random.default_rng(derived_seed(seed, Purpose.SPLIT) % (1 << 32))
        client = np.empty(count, dtype=np.int64)
        try:
            client[order] = deal(dataset.train.y.numpy()[order], population, stream)
        except _Impossible as reason:
            raise InputError(
                f"split: {name} must be possible for {population} clients of {dataset.name}; got: "
                f"{reason} Change the split or --population."
            ) from reason
        return client, None

    return Split(name=name, assign=assign)


def _repeat(counts: NDArray[np.int64]) -> Clients:
    """counts[0] times 0, then counts[1] times 1, and so on."""
    return np.repeat(np.arange(len(counts)), counts)


def _natural(dataset: Dataset, population: int, seed: int) -> tuple[Clients, Clients | None]:
    at_least("split", 1, "Give a population of one or more.", population=population)
    if dataset.train_owners is None:
        raise InputError(
            f"split: natural must be used on data with owners; got {dataset.name}. "
            "Use partition.dirichlet, or data such as femnist."
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
