"""Aggregators: how bounded updates become one, a stack at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedsim import trees
from fedsim.types import Aggregate, Aggregator, Bounded, Scenario, Tree
from fedsim.validate import InputError


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


class Gathered(NamedTuple):
    """All updates of a round, as they came: memory O(cohort x d)."""

    diffs: tuple[Tree, ...]
    num_examples: tuple[Tensor, ...]


def of_all(
    name: str, combine: Callable[[Tree, Tensor], Tree], *, least: int = 1
) -> Aggregator[Gathered]:
    """An aggregator that needs all updates of a round together.

    Args:
        name: its name.
        combine: (stack [s, ...], num_examples [s]) -> one tree.
        least: the fewest updates s that the rule is made for. A smaller cohort is refused before
            the run; a round to which fewer came is refused by `finish`.
    """

    def add(state: Gathered, bounded: Bounded) -> Gathered:
        copy = {key: value.clone() for key, value in bounded.diff.items()}
        weights = bounded.num_examples.clone()
        return Gathered((*state.diffs, copy), (*state.num_examples, weights))

    def finish(state: Gathered, everyone: Tensor) -> Aggregate | str | None:
        if not state.diffs:
            return None
        came = sum(map(len, state.num_examples))
        if came < least:
            return f"{name} needs {least} updates and got {came}"
        keys = state.diffs[0]
        stack = {key: torch.cat([diff[key] for diff in state.diffs]) for key in keys}
        diff = combine(stack, torch.cat(state.num_examples))
        return Aggregate(diff, l2_sensitivity=math.inf, share=math.nan)

    def objection(scenario: Scenario) -> str | None:
        if scenario.cohort >= least:
            return None
        return (
            f"{name}: cohort must be at least {least}; got {scenario.cohort}. "
            "Ask more clients a round, or assume fewer attackers."
        )

    return Aggregator(
        name=name,
        init=lambda like: Gathered((), ()),
        add=add,
        finish=finish,
        averages=False,
        objection=objection,
    )


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

    def weigh(num_examples: Tensor) -> Tensor:
        return num_examples if weights == "examples" else (num_examples > 0).to(num_examples.dtype)

    def add(state: Sum, bounded: Bounded) -> Sum:
        weight = weigh(bounded.num_examples)
        return Sum(
            trees.add_weighted_(state.total, bounded.diff, weight), state.weight + weight.sum()
        )

    def finish(state: Sum, everyone: Tensor) -> Aggregate | None:
        weight = float(state.weight)
        if not weight > 0:
            return None
        share = weight / float(weigh(everyone).sum())
        return Aggregate(trees.scale(state.total, 1 / weight), math.inf, share)

    return Aggregator(name=f"mean({weights})", init=init, add=add, finish=finish)
