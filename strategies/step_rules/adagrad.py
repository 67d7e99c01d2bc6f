"""Adagrad on the clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import positive
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree


class AdagradState(NamedTuple):
    """total: the sum of squared gradients."""

    total: Tree


def adagrad(lr: float, *, eps: float = 1e-10) -> StepRule[AdagradState]:
    """Adagrad; its sum starts anew in every round.

    Box (x: point, g: gradient):
        s <- s + g^2
        x <- x - lr g / (sqrt(s) + eps)

    It has no reach: how far it goes does not depend on the length of the gradients.

    Source: Duchi, Hazan, Singer (2011), JMLR 12.

    Raises:
        InputError: lr or eps is not above 0.

    Guarantees:
        It takes the steps of torch.optim.Adagrad.
    """
    positive("adagrad", "Use 0.01 and 1e-10.", lr=lr, eps=eps)

    def init(params: Tree, round_num: Tensor) -> AdagradState:
        return AdagradState(trees.zeros_like(params))

    def step(
        state: AdagradState, params: Tree, gradient: Callable[[Tree], Tree]
    ) -> tuple[Tree, AdagradState]:
        g = gradient(params)
        total = {name: state.total[name] + g[name].square() for name in g}
        move = {name: g[name] / (total[name].sqrt() + eps) for name in g}
        return trees.add_scaled(params, move, -lr), AdagradState(total)

    return StepRule(name=f"adagrad({lr:g})", init=init, step=step, reach=None)
