"""The mean of the updates, weighted by examples or uniform."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import InputError
from fedsim.core.sampling import Everyone
from fedsim.core.scenario import Aggregator, Scenario
from fedsim.core.trees import Tree
from fedsim.core.updates import Aggregate, Bounded


class Sum(NamedTuple):
    """A running weighted sum and the sum of its weights."""

    total: Tree
    weight: Tensor


def mean(weights: Literal["examples", "uniform"] = "examples") -> Aggregator[Sum]:
    """The mean of the updates, weighted by the clients' examples or uniform.

    Its sensitivity is infinite: it divides by the realised weights, which are not public. See
    `public_mean`.

    Raises:
        InputError: weights is not one of these.
    """
    if weights not in ("examples", "uniform"):
        raise InputError(f"mean: weights must be examples or uniform; got {weights!r}. Pick one.")

    def init(like: Tree) -> Sum:
        device = next(iter(like.values())).device
        return Sum(trees.zeros_like(like), torch.zeros((), device=device))

    def weigh(num_examples: Tensor) -> Tensor:
        return num_examples if weights == "examples" else (num_examples > 0).to(num_examples.dtype)

    def add(state: Sum, bounded: Bounded) -> Sum:
        weight = weigh(bounded.num_examples)
        return Sum(
            trees.add_weighted_(state.total, bounded.diff, weight), state.weight + weight.sum()
        )

    def finish(state: Sum, everyone: Everyone) -> Aggregate | None:
        weight = float(state.weight)
        if not weight > 0:
            return None
        share = weight / float(weigh(everyone.num_examples).sum())
        return Aggregate(trees.scale(state.total, 1 / weight), math.inf, share)

    return Aggregator(name=f"mean({weights})", init=init, add=add, finish=finish)


def needs_mean(who: str) -> Callable[[Scenario], str | None]:
    """The objection of a strategy whose server keeps a sum over the population."""

    def objection(scenario: Scenario) -> str | None:
        if scenario.aggregator.averages:
            return None
        return (
            f"{who}: aggregator must be a mean, of which its server keeps a running sum; got "
            f"{scenario.aggregator.name}. Use mean(), or a strategy without duals."
        )

    return objection
