"""Adam and AdamW on the clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import in_unit_interval, non_negative, positive
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree


class AdamState(NamedTuple):
    """lr: [], this round's; taken: steps so far, []; m, v: first and second moment."""

    lr: Tensor
    taken: Tensor
    m: Tree
    v: Tree


def adam(
    lr: float,
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decay: float = 1.0,
) -> StepRule[AdamState]:
    """Adam, or with weight decay AdamW; the moments start anew in every round.

    Box (x: point, g: gradient, k: step of the round, t: round, both from 1):
        m <- beta_1 m + (1 - beta_1) g        v <- beta_2 v + (1 - beta_2) g^2
        d = m / (1 - beta_1^k) / (sqrt(v / (1 - beta_2^k)) + eps)
        x <- x - lr decay^(t - 1) (d + weight_decay x)

    It has no reach: how far it goes does not depend on the length of the gradients.

    Source: Kingma, Ba (2015), arXiv:1412.6980; Loshchilov, Hutter (2019), arXiv:1711.05101.

    Args:
        lr: learning rate of round 1.
        beta_1: of the first moment, in [0, 1).
        beta_2: of the second moment, in [0, 1).
        eps: keeps the denominator from zero, > 0.
        weight_decay: decoupled, as in AdamW.
        decay: factor on the learning rate from round to round, > 0.

    Raises:
        InputError: a value is out of its range.
    """
    positive("adam", "Use 1e-3, 1e-8 and a decay of 1.", lr=lr, eps=eps, decay=decay)
    in_unit_interval("adam", "Use 0.9 and 0.999.", beta_1=beta_1, beta_2=beta_2)
    non_negative("adam", "Use 0 or 1e-2.", weight_decay=weight_decay)

    def init(params: Tree, round_num: Tensor) -> AdamState:
        zeros = trees.zeros_like(params)
        return AdamState(lr * decay ** (round_num - 1), torch.zeros_like(round_num), zeros, zeros)

    def step(
        state: AdamState, params: Tree, gradient: Callable[[Tree], Tree]
    ) -> tuple[Tree, AdamState]:
        g, k = gradient(params), state.taken + 1
        m = {name: beta_1 * state.m[name] + (1 - beta_1) * g[name] for name in g}
        v = {name: beta_2 * state.v[name] + (1 - beta_2) * g[name].square() for name in g}
        # in float64: 1 - 0.999 has three digits less than its parts
        first, second = ((1 - beta ** k.double()).to(k.dtype) for beta in (beta_1, beta_2))
        move = {name: m[name] / first / ((v[name] / second).sqrt() + eps) for name in m}
        if weight_decay:
            move = trees.add_scaled(move, params, weight_decay)
        return trees.add_scaled(params, move, -state.lr), AdamState(state.lr, k, m, v)

    return StepRule(name=f"adam({lr:g})", init=init, step=step, reach=None)
