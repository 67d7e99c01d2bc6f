"""Projected steps: any step rule, kept within a box."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.core.errors import refusal
from fedsim.core.step_rule import State, StepRule
from fedsim.core.trees import Tree


def boxed(rule: StepRule[State], low: float, high: float) -> StepRule[State]:
    """The same rule, each of whose steps ends at the nearest point of the box [low, high]^d.

    Raises:
        InputError: low is not below high.
    """
    if not low < high:
        raise refusal("boxed", "low", f"below high, {high}", low, "Use 0 and 1.")

    def step(state: State, params: Tree, gradient: Callable[[Tree], Tree]) -> tuple[Tree, State]:
        moved, after = rule.step(state, params, gradient)
        return {name: value.clamp(low, high) for name, value in moved.items()}, after

    return StepRule(name=f"boxed({rule.name})", init=rule.init, step=step, reach=None)
