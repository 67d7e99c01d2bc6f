"""Aggregators: how bounded updates become one, a stack at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import InputError, positive
from fedsim.core.sampling import Everyone
from fedsim.core.scenario import Aggregator, Scenario
from fedsim.core.trees import Tree
from fedsim.core.updates import Aggregate, Bounded


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

    def finish(state: Gathered, everyone: Everyone) -> Aggregate | str | None:
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

    Its sensitivity is infinite: it divides by the realised weights, which are not public. See
    `public_mean`.

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

    def finish(state: Sum, everyone: Everyone) -> Aggregate | None:
        weight = float(state.weight)
        if not weight > 0:
            return None
        share = weight / float(weigh(everyone.num_examples).sum())
        return Aggregate(trees.scale(state.total, 1 / weight), math.inf, share)

    return Aggregator(name=f"mean({weights})", init=init, add=add, finish=finish)


class Votes(NamedTuple):
    """A running weighted sum, and the sum of the votes."""

    total: Tree
    votes: Tensor


def public_mean(full: float | None = None) -> Aggregator[Votes]:
    """The sum of the updates over what it weighs on average: sum_k w_k diff_k / (q W).

    q is the chance of a client to be asked and W the weight of the whole population, both public;
    so one client's update of norm 1 moves it by 1 / (q W) at most, whoever else takes part.

    Args:
        full: the number of examples from which a client counts fully: w = min(examples / full, 1).
            Left out, every client that has examples counts 1.

    Raises:
        InputError: full is not above 0.

    Guarantees:
        A client that is asked and does not answer counts as one whose update is zero.
        A round in which nobody takes part gives an aggregate of zeros.

    Source: McMahan et al. (2018), "Learning differentially private recurrent language models",
        arXiv:1710.06963, the estimator with a fixed denominator.
    """
    if full is not None:
        positive("public_mean", "Leave it out, and every client counts 1.", full=full)

    def weigh(num_examples: Tensor) -> Tensor:
        numbers = num_examples.to(torch.float32)
        return (numbers / (full or 1)).clamp(max=1) if full else (numbers > 0).to(numbers.dtype)

    def init(like: Tree) -> Votes:
        device = next(iter(like.values())).device
        return Votes(trees.zeros_like(like), torch.zeros((), device=device))

    def add(state: Votes, bounded: Bounded) -> Votes:
        total = trees.add_weighted_(state.total, bounded.diff, weigh(bounded.num_examples))
        votes = state.votes if bounded.votes is None else state.votes + bounded.votes.sum()
        return Votes(total, votes)

    def finish(state: Votes, everyone: Everyone) -> Aggregate | None:
        expected = everyone.sampling_prob * float(weigh(everyone.num_examples).sum())
        if not expected > 0:
            return None
        return Aggregate(
            trees.scale(state.total, 1 / expected),
            l2_sensitivity=1 / expected,
            share=everyone.sampling_prob,
            votes=state.votes,
            expected=everyone.sampling_prob * float((everyone.num_examples > 0).sum()),
        )

    return Aggregator(
        name="public_mean" if full is None else f"public_mean(full={full:g})",
        init=init,
        add=add,
        finish=finish,
        public=True,
    )
