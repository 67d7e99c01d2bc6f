"""Aggregators that need all updates of a round together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core.sampling import Everyone
from fedsim.core.scenario import Aggregator, Scenario
from fedsim.core.trees import Tree
from fedsim.core.updates import Aggregate, Bounded


class Gathered(NamedTuple):
    """All updates of a round, in order of arrival: memory O(cohort x d)."""

    diffs: tuple[Tree, ...]
    num_examples: tuple[Tensor, ...]


def gather_all(
    name: str, combine: Callable[[Tree, Tensor], Tree], *, least: int = 1
) -> Aggregator[Gathered]:
    """Make an aggregator that combines all updates of a round together.

    Args:
        name: its name.
        combine: (stack [s, ...], num_examples [s]) -> one tree.
        least: the fewest updates s that the rule needs. A smaller cohort is refused before the
            run; a round with fewer updates is refused by `finish`.
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
