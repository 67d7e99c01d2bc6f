"""Delta-SGD: every client tunes its learning rate to the local smoothness of its objective.

A step rule, for the local half of any strategy.

Paper
    Kim, Toghani, Uribe, Kyrillidis. "Adaptive Federated Learning with Auto-Tuned Clients".
    ICLR 2024. arXiv:2306.11201, Algorithm 1.

Notation
    x_k params    g_k gradient of mini-batch xi_k    eta_k lr    theta_k ratio
    gamma gamma    delta growth (the paper's delta, which is no failure probability)

Algorithm (K local steps; eta and theta start anew in every round)
    1  g_0 = grad F(x_0; xi_0);  x_1 = x_0 - eta_0 g_0
    2  for k = 1..K-1:
    3      g_k = grad F(x_k; xi_k),  h_k = grad F(x_{k-1}; xi_k)
    4      eta_k = min{ gamma ||x_k - x_{k-1}|| / (2 ||g_k - h_k||),
                        sqrt(1 + delta theta_{k-1}) eta_{k-1} }
    5      theta_k = eta_k / eta_{k-1};  x_{k+1} = x_k - eta_k g_k

Deviations
    Where a difference of line 4 is zero only the second term counts.  Line 1 takes a second
    gradient at the same point, which is not used: all clients of a stack do the same.  The box
    prints sqrt(1 + theta); the experiments scale theta by delta, as here.  A gradient that is not
    finite makes the update so, and the server rejects the client's reply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import non_negative, positive
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree


class DeltaSgd(NamedTuple):
    """previous: x_{k-1}; lr: eta_{k-1}, []; ratio: theta_{k-1}, []; reach: sum of eta, []."""

    previous: Tree
    lr: Tensor
    ratio: Tensor
    reach: Tensor


def delta_sgd(*, lr: float = 0.2, gamma: float = 2.0, growth: float = 0.1) -> StepRule[DeltaSgd]:
    """Stochastic gradient descent whose learning rate follows the local smoothness.

    Two gradients a step, both on the step's batch.

    Args:
        lr: of a round's first step, > 0; later steps forget it quickly.
        gamma: how much of the inverse smoothness to take, > 0.
        growth: how fast the learning rate may grow, >= 0; 0 never lets it.

    Raises:
        InputError: a value is out of its range.

    Guarantees:
        One local step is a step of SGD with the same lr.
        On a quadratic of curvature L the learning rate is capped at gamma / (2 L).
        Scaling the objective by c, and lr by 1 / c, leaves every iterate where it was.
        A step's learning rate is at most sqrt(1 + growth * ratio) times the one before.
    """
    positive("delta_sgd", "Use 0.2.", lr=lr)
    positive("delta_sgd", "Use 2.", gamma=gamma)
    non_negative("delta_sgd", "Use 0.1.", growth=growth)

    def init(params: Tree, round_num: Tensor) -> DeltaSgd:
        one = torch.ones_like(round_num)
        return DeltaSgd(previous=params, lr=lr * one, ratio=one, reach=0 * one)

    def step(
        state: DeltaSgd, params: Tree, gradient: Callable[[Tree], Tree]
    ) -> tuple[Tree, DeltaSgd]:
        here = gradient(params)  # line 3
        before = gradient(state.previous)
        moved = trees.norm(trees.subtract(params, state.previous))
        turned = trees.norm(trees.subtract(here, before))
        steady = (moved == 0) | (turned == 0)
        cap = gamma * moved / (2 * torch.where(steady, 1.0, turned))  # line 4
        grown = torch.sqrt(1 + growth * state.ratio) * state.lr
        chosen = torch.where(steady, grown, torch.minimum(cap, grown))
        chosen = torch.where(state.reach == 0, state.lr, chosen)  # line 1
        after = DeltaSgd(
            previous=params,
            lr=chosen,
            ratio=chosen / state.lr,  # line 5; 1 after line 1, as theta_0
            reach=state.reach + chosen,
        )
        return trees.add_scaled(params, here, -chosen), after

    def reach(state: DeltaSgd, steps: Tensor) -> Tensor:
        return state.reach

    return StepRule(name=f"delta_sgd({lr:g})", init=init, step=step, reach=reach)
