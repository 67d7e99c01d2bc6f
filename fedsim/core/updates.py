"""Clients' updates and their types on the way to a release: Update, Bounded, Aggregate, Released.

Shapes: k clients of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fedsim.core import trees
from fedsim.core.trees import Tree


@dataclass(frozen=True)
class Update:
    """Updates as clients sent them, unbounded. diff: stack [k, ...]; num_examples: [k], float.

    keys: [k], int64, each client's own randomness of this round, for noise on its own update.
    """

    diff: Tree
    num_examples: Tensor
    keys: Tensor | None = None


@dataclass(frozen=True)
class Bounded:
    """Updates, each with norm at most `l2_bound` (infinite without privacy).

    votes: [k], 1/2 if an update's norm was within the bound before clipping, else -1/2, for a
        mechanism that uses their sum; zeros if it uses none.
    """

    diff: Tree
    num_examples: Tensor
    l2_bound: float
    votes: Tensor | None = None


@dataclass(frozen=True)
class Aggregate:
    """One combined update.

    l2_sensitivity: how far one client's update of norm 1 can move it, from public constants.
    share: the part of the population that is in it, by the aggregator's weights; NaN if the rule
        has no such weights.
    votes: the sum of the votes, not yet private; expected: how many votes there are on average,
        from public constants.
    """

    diff: Tree
    l2_sensitivity: float
    share: float
    votes: Tensor | None = None
    expected: float = 0.0


@dataclass(frozen=True)
class Released:
    """What the server may use. Only mechanisms create one; post-processing keeps it released.

    share * diff is the mean over the whole population, with 0 for clients outside the cohort.
    """

    diff: Tree
    share: float

    def map(self, function: Callable[[Tree], Tree]) -> Released:
        """The same release after post-processing."""
        return replace(self, diff=function(self.diff))


class Noise(NamedTuple):
    """Where a release's noise comes from. stream: round -> its generator, the same at each call."""

    round_num: int
    stream: Callable[[int], Generator]


def zero_non_finite(update: Update) -> Update:
    """Replace the rows of an update that are not finite by zeros."""
    finite = trees.finite_rows(update.diff)
    rows = {
        name: torch.where(finite.reshape(-1, *(1,) * (tensor.dim() - 1)), tensor, 0)
        for name, tensor in update.diff.items()
    }
    return replace(update, diff=rows)


def screen(update: Update, clients: list[int]) -> tuple[Update, list[int], list[int]]:
    """Separate an update's finite rows: those rows, their clients, and the other clients."""
    finite = trees.finite_rows(update.diff)
    if bool(finite.all()):
        return update, clients, []
    rows = torch.nonzero(finite).flatten()
    flags = finite.tolist()
    kept = [client for client, good in zip(clients, flags, strict=True) if good]
    dropped = [client for client, good in zip(clients, flags, strict=True) if not good]
    return Update(trees.select_rows(update.diff, rows), update.num_examples[rows]), kept, dropped
