"""FedAvg: clients take gradient steps from the server's model; the server averages where they end.

Paper
    McMahan, Moore, Ramage, Hampson, Agueera y Arcas. "Communication-Efficient Learning of Deep
    Networks from Decentralized Data". AISTATS 2017. arXiv:1602.05629, Algorithm 1.

Notation
    x^t server.params    F_i client i's mean loss    xi one mini-batch    p_i weights, sum 1

Algorithm
    1  for t = 1..T:
    2      send x^t to the cohort S_t
    3      each i in S_t:  y <- x^t
    4          for each mini-batch xi:  y <- y - lr * grad F_i(y; xi)
    5          send diff_i = y - x^t
    6      x^{t+1} = x^t + server_lr * sum_i p_i diff_i

Deviations
    Line 4 takes any step rule.  Line 6 has a server_lr; 1 is the paper's.  The p_i are the
    aggregator's, and what the server adds is what the mechanism released.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle
from fedsim.core.errors import positive
from fedsim.core.scenario import Strategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from fedsim.core.updates import Released


class Server(NamedTuple):
    """params: x^t."""

    params: Tree


class Model(NamedTuple):
    """What clients get. params: x^t; round_num: t, []."""

    params: Tree
    round_num: Tensor


class Local(NamedTuple):
    """A client at work. params: y; rule: the step rule's state."""

    params: Tree
    rule: Any


class Nothing(NamedTuple):
    """The state of a client that keeps none."""


def fedavg(
    *, steps: StepRule[Any], server_lr: float = 1.0
) -> Strategy[Server, Model, Nothing, Local]:
    """Federated averaging.

    Args:
        steps: how a client moves (line 4).
        server_lr: how far the server follows the mean update (line 6), > 0.

    Raises:
        InputError: server_lr is not above 0.

    Guarantees:
        One full-batch step of everyone is one step of gradient descent on the weighted loss.
        Identical clients together do what one of them does.
    """
    positive("fedavg", "Use 1 for plain averaging.", server_lr=server_lr)

    def init(params: Tree) -> Server:
        return Server(params)

    def broadcast(server: Server, round_num: int) -> Model:  # line 2
        device = next(iter(server.params.values())).device
        return Model(server.params, torch.tensor(float(round_num), device=device))

    def client_init(params: Tree) -> Nothing:
        return Nothing()

    def local_init(model: Model, client: Nothing) -> Local:  # line 3
        return Local(model.params, steps.init(model.params, model.round_num))

    def local_step(
        local: Local, batch: Batch, oracle: Oracle, model: Model, client: Nothing
    ) -> Local:  # line 4
        return Local(*steps.step(local.rule, local.params, lambda y: oracle.gradient(y, batch)))

    def local_end(local: Local, model: Model, client: Nothing) -> tuple[Tree, Nothing]:  # line 5
        return trees.subtract(local.params, model.params), client

    def update(server: Server, released: Released) -> Server:  # line 6
        return Server(trees.add_scaled(server.params, released.diff, server_lr))

    return Strategy(
        name="fedavg",
        init=init,
        broadcast=broadcast,
        update=update,
        params=lambda server: server.params,
        client_init=client_init,
        local_init=local_init,
        local_step=local_step,
        local_end=local_end,
    )
