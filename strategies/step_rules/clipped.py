"""Gradient clipping: any step rule, on gradients of bounded norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from fedsim.core import trees
from fedsim.core.errors import positive
from fedsim.core.step_rule import State, StepRule
from fedsim.core.trees import Tree


def clipped(rule: StepRule[State], largest: float) -> StepRule[State]:
    """The same rule on gradients scaled down to the norm `largest`, all tensors together.

    This is the clipping of a batch's gradient that stabilises training. It bounds no example's
    contribution and gives no privacy: for that see `privacy.mechanisms.dp_sgd`.

    Raises:
        InputError: largest is not above 0.
    """
    positive("clipped", "Use 1.", largest=largest)

    def step(state: State, params: Tree, gradient: Callable[[Tree], Tree]) -> tuple[Tree, State]:
        def short(point: Tree) -> Tree:
            g = gradient(point)
            length = trees.norm(g)
            return trees.scale(g, torch.where(length > largest, largest / length, 1.0))

        return rule.step(state, params, short)

    return replace(rule, name=f"clipped({rule.name}, {largest:g})", step=step)
