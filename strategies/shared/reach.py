"""How far a step rule reached in a round, and the mean of the gradients that it followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import refusal
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree


class Counted(NamedTuple):
    """rule: the state of the counted rule; taken: its steps so far, []."""

    rule: Any
    taken: Tensor


class Counting(NamedTuple):
    """A step rule that counts its steps, and (its state) -> how far they reached."""

    rule: StepRule[Counted]
    reach: Callable[[Counted], Tensor]


def counted(rule: StepRule[Any]) -> Counting:
    """The same rule with a count of its steps, for algorithms that divide by its reach.

    Raises:
        InputError: the rule has no reach.
    """
    known = rule.reach
    if known is None:
        raise refusal(
            "counted",
            "steps",
            "a rule whose moves are linear in the gradients",
            rule.name,
            "Use sgd, or an algorithm that does not divide by how far a client went.",
        )

    def init(params: Tree, round_num: Tensor) -> Counted:
        return Counted(rule.init(params, round_num), torch.zeros_like(round_num))

    def step(
        state: Counted, params: Tree, gradient: Callable[[Tree], Tree]
    ) -> tuple[Tree, Counted]:
        after, inner = rule.step(state.rule, params, gradient)
        return after, Counted(inner, state.taken + 1)

    def reach(state: Counted, steps: Tensor) -> Tensor:
        return known(state.rule, steps)

    counting = StepRule(name=rule.name, init=init, step=step, reach=reach)
    return Counting(counting, lambda state: reach(state, state.taken))


class Summed(NamedTuple):
    """rule: the state of the wrapped rule; total: of its gradients; taken: its steps."""

    rule: Any
    total: Tree
    taken: Tensor


class Averaging(NamedTuple):
    """A step rule, and (its state, the client's diff) -> the mean of its gradients."""

    rule: StepRule[Any]
    mean: Callable[[Any, Tree], Tree]


def averaged(rule: StepRule[Any]) -> Averaging:
    """The same rule, and the mean of the gradients that it followed in a round.

    If the rule has a reach, the mean is -diff / reach (which weights each gradient by how far it
    moved the client); else the gradients are summed. For plain SGD the two are equal.
    """
    if rule.reach is not None:
        counting, reach = counted(rule)
        return Averaging(counting, lambda state, diff: trees.scale(diff, -1 / reach(state)))

    def init(params: Tree, round_num: Tensor) -> Summed:
        zero = torch.zeros_like(round_num)
        return Summed(rule.init(params, round_num), trees.zeros_like(params), zero)

    def step(state: Summed, params: Tree, gradient: Callable[[Tree], Tree]) -> tuple[Tree, Summed]:
        seen: list[Tree] = []

        def noted(point: Tree) -> Tree:
            seen.append(gradient(point))
            return seen[-1]

        after, inner = rule.step(state.rule, params, noted)
        return after, Summed(inner, trees.add(state.total, seen[0]), state.taken + 1)

    watched = StepRule(name=rule.name, init=init, step=step, reach=None)
    return Averaging(watched, lambda state, diff: trees.scale(state.total, 1 / state.taken))
