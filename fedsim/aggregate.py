"""Aggregators: how bounded updates become one, a stack at a time."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedsim import trees
from fedsim.types import Aggregate, Aggregator, Bounded, Tree
from fedsim.validate import InputError


class Sum(NamedTuple):
    """A running weighted sum and the sum of its weights."""

    total: Tree
    weight: Tensor


def mean(weights: Literal["examples", "uniform"] = "examples") -> Aggregator[Sum]:
    """The mean of the updates, weighted by the clients' examples or all alike.

    Its sensitivity is infinite: it divides by the realised weights, which are not public.

    Raises:
        InputError: weights is neither of these.
    """
    if weights not in ("examples", "uniform"):
        raise InputError(f"mean: weights must be examples or uniform; got {weights!r}. Pick one.")

    def init(like: Tree) -> Sum:
        device = next(iter(like.values())).device
        return Sum(trees.zeros_like(like), torch.zeros((), device=device))

    def add(state: Sum, bounded: Bounded) -> Sum:
        weight = bounded.num_examples
        if weights == "uniform":
            weight = (weight > 0).to(weight.dtype)
        return Sum(
            trees.add_weighted_(state.total, bounded.diff, weight), state.weight + weight.sum()
        )

    def finish(state: Sum) -> Aggregate | None:
        if not state.weight > 0:
            return None
        return Aggregate(trees.scale(state.total, 1 / state.weight), l2_sensitivity=math.inf)

    return Aggregator(name=f"mean({weights})", init=init, add=add, finish=finish)
