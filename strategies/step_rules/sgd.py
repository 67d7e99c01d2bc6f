"""SGD: stochastic gradient descent, with momentum, weight decay and a schedule over rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import in_unit_interval, non_negative, positive
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree


class SgdState(NamedTuple):
    """lr: [], this round's; velocity: a tree, empty without momentum."""

    lr: Tensor
    velocity: Tree


def sgd(
    lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0, decay: float = 1.0
) -> StepRule[SgdState]:
    """Stochastic gradient descent; momentum starts anew in every round.

    Box (x: point, g: gradient, t: round, from 1):
        g <- g + weight_decay * x
        v <- momentum * v + g
        x <- x - lr * decay^(t - 1) * v

    Args:
        lr: learning rate of round 1.
        momentum: in [0, 1).
        weight_decay: coupled (L2), part of the gradient.
        decay: factor on the learning rate from round to round, > 0.

    Raises:
        InputError: a value is out of its range.
    """
    positive("sgd", "Use 0.1.", lr=lr)
    positive("sgd", "Use 1 for a constant learning rate.", decay=decay)
    in_unit_interval("sgd", "Use 0 or 0.9.", momentum=momentum)
    non_negative("sgd", "Use 0 or 1e-3.", weight_decay=weight_decay)

    def init(params: Tree, round_num: Tensor) -> SgdState:
        return SgdState(
            lr=lr * decay ** (round_num - 1),
            velocity=trees.zeros_like(params) if momentum else {},
        )

    def step(
        state: SgdState, params: Tree, gradient: Callable[[Tree], Tree]
    ) -> tuple[Tree, SgdState]:
        move = gradient(params)
        if weight_decay:
            move = trees.add_scaled(move, params, weight_decay)
        if momentum:
            move = trees.add_scaled(move, state.velocity, momentum)
            state = state._replace(velocity=move)
        return trees.add_scaled(params, move, -state.lr), state

    def reach(state: SgdState, steps: Tensor) -> Tensor:
        # v_k = 1 + momentum + ... + momentum^(k - 1); their sum over k = 1..K
        late = momentum * (1 - momentum**steps) / (1 - momentum)
        return state.lr * (steps - late) / (1 - momentum)

    return StepRule(name=f"sgd({lr:g})", init=init, step=step, reach=reach)
