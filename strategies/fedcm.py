"""FedCM: clients mix the last round's direction into every local gradient.

Paper
    Xu, Wang, Wang, Yao. "FedCM: Federated Learning with Client-Level Momentum". 2021.
    arXiv:2106.10874, Algorithm 2.

Notation
    x^t server.params    D server.momentum, a gradient    alpha alpha    K_i local steps

Algorithm
    1  D = 0;  for t = 1..T:
    2      send x^t and D to the cohort S_t
    3      each i in S_t:  y <- x^t;  K_i times:  y <- y - lr (alpha grad F_i(y) + (1 - alpha) D)
    4          send diff_i = y - x^t and K_i lr
    5      D <- - mean_i diff_i / mean_i (K_i lr)
    6      x^{t+1} = x^t + server_lr mean_i diff_i

Deviations
    K_i lr is the step rule's reach.  The paper's clients take the same number of steps; where they
    do not, line 5 is the mean of their mean gradients weighted by K_i lr.  As in the paper, D is 0
    in the first round, which makes its steps shorter by alpha.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle
from fedsim.core.errors import InputError, positive
from fedsim.core.scenario import AnyStrategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from fedsim.core.updates import Released
from strategies.fedavg import Local, Nothing, fedavg
from strategies.shared.reach import counted


class Server(NamedTuple):
    """params: x^t; momentum: D, in units of a gradient."""

    params: Tree
    momentum: Tree


class Moving(NamedTuple):
    """What clients get. params: x^t; momentum: D; round_num: t, []."""

    params: Tree
    momentum: Tree
    round_num: Tensor


def fedcm(*, steps: StepRule[Any], alpha: float = 0.1, server_lr: float = 1.0) -> AnyStrategy:
    """Client-level momentum.

    Args:
        steps: how a client moves (line 3).
        alpha: the part of its own gradient in each step, in (0, 1].
        server_lr: how far the server follows the mean update (line 6), > 0.

    Raises:
        InputError: alpha is outside (0, 1], or server_lr is not above 0.

    Guarantees:
        With alpha = 1 it equals FedAvg.
        After one full-batch step of everyone the momentum is the gradient of the mean loss.
    """
    positive("fedcm", "Use 1.", server_lr=server_lr)
    if not 0 < alpha <= 1:
        raise InputError(f"fedcm: alpha must be in (0, 1]; got {alpha}. Use 0.1.")
    rule, reach = counted(steps)
    base: AnyStrategy = fedavg(steps=rule)

    def init(params: Tree) -> Server:  # line 1
        return Server(params, trees.zeros_like(params))

    def broadcast(server: Server, round_num: int) -> Moving:  # line 2
        return Moving(server.params, server.momentum, base.broadcast(server, round_num).round_num)

    def local_step(
        local: Local, batch: Batch, oracle: Oracle, model: Moving, client: Nothing
    ) -> Local:  # line 3
        def gradient(y: Tree) -> Tree:
            own = trees.scale(oracle.gradient(y, batch), alpha)
            return trees.add_scaled(own, model.momentum, 1 - alpha)

        return Local(*rule.step(local.rule, local.params, gradient))

    def local_end(local: Local, model: Moving, client: Nothing) -> tuple[Tree, Nothing]:  # line 4
        diff = trees.subtract(local.params, model.params)
        return diff | {"reach/": reach(local.rule).unsqueeze(0)}, client

    def update(server: Server, released: Released) -> Server:
        diff = {name: released.diff[name] for name in server.params}
        momentum = trees.scale(diff, -1 / released.diff["reach/"])  # line 5
        return Server(trees.add_scaled(server.params, diff, server_lr), momentum)  # line 6

    return replace(
        base,
        name="fedcm",
        init=init,
        broadcast=broadcast,
        update=update,
        local_step=local_step,
        local_end=local_end,
    )
