"""SCAFFOLD: control variates turn every local gradient towards the population's.

Paper
    Karimireddy, Kale, Mohri, Reddi, Stich, Suresh. "SCAFFOLD: Stochastic Controlled Averaging for
    Federated Learning". ICML 2020. arXiv:1910.06378, Algorithm 1, option II.

Notation
    x server.params    c server.control    c_i client.control    K_i local steps    m clients in all

Algorithm
    1  c = 0, all c_i = 0;  for t = 1..T:
    2      send x and c to the cohort S_t
    3      each i in S_t:  y <- x;  K_i times:  y <- y - lr (grad F_i(y) - c_i + c)
    4          c_i+ = c_i - c + (x - y) / (K_i lr);  send y - x and c_i+ - c_i;  c_i <- c_i+
    5      x <- x + server_lr mean_{i in S_t} (y_i - x)
    6      c <- c + (1 / m) sum_{i in S_t} (c_i+ - c_i)

Deviations
    K_i lr is the step rule's reach, so that line 4 is right for schedules, momentum and adaptive
    rates: (x - y) / reach is the client's mean corrected gradient.  Where a rule has no reach
    (Adam, or steps within a box) the mean is taken of the gradients themselves.  Line 4 is in
    effect only once the server has accepted the reply.  Both parts are sent, as in the paper: where
    K_i differ, the server could not tell the second from the mean of the first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle
from fedsim.core.errors import positive
from fedsim.core.scenario import AnyStrategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from fedsim.core.updates import Released
from strategies.aggregators.mean import needs_mean
from strategies.fedavg import Local, fedavg
from strategies.shared.reach import averaged


class Server(NamedTuple):
    """params: x; control: c, the mean of all clients' c_i."""

    params: Tree
    control: Tree


class Guided(NamedTuple):
    """What clients get. params: x; control: c; round_num: t, []."""

    params: Tree
    control: Tree
    round_num: Tensor


class Control(NamedTuple):
    """A client's memory. control: c_i."""

    control: Tree


def scaffold(*, steps: StepRule[Any], server_lr: float = 1.0) -> AnyStrategy:
    """Stochastic controlled averaging.

    Args:
        steps: how a client moves (line 3).
        server_lr: how far the server follows the mean update (line 5), > 0.

    Raises:
        InputError: server_lr is not above 0.

    Guarantees:
        The server's c is the mean of the clients' c_i after any cohorts.
        On heterogeneous quadratics with half of the clients a round it reaches the exact optimum.
        Its first round is FedAvg's.
    """
    positive("scaffold", "Use 1.", server_lr=server_lr)
    rule, mean_gradient = averaged(steps)
    base: AnyStrategy = fedavg(steps=rule)

    def init(params: Tree) -> Server:  # line 1
        return Server(params, trees.zeros_like(params))

    def broadcast(server: Server, round_num: int) -> Guided:  # line 2
        return Guided(server.params, server.control, base.broadcast(server, round_num).round_num)

    def local_step(
        local: Local, batch: Batch, oracle: Oracle, guide: Guided, client: Control
    ) -> Local:  # line 3
        def gradient(y: Tree) -> Tree:
            drift = trees.subtract(client.control, guide.control)
            return trees.subtract(oracle.gradient(y, batch), drift)

        return Local(*rule.step(local.rule, local.params, gradient))

    def local_end(local: Local, guide: Guided, client: Control) -> tuple[Tree, Control]:  # line 4
        diff = trees.subtract(local.params, guide.params)
        change = trees.subtract(mean_gradient(local.rule, diff), guide.control)
        return diff | trees.add_prefix(change, "control"), Control(
            trees.add(client.control, change)
        )

    def update(server: Server, released: Released) -> Server:
        change = trees.take_part(released.diff, "control")
        return Server(
            trees.add_scaled(server.params, released.diff, server_lr),  # line 5
            trees.add_scaled(server.control, change, released.share),  # line 6
        )

    return replace(
        base,
        name="scaffold",
        init=init,
        broadcast=broadcast,
        update=update,
        client_init=lambda params: Control(trees.zeros_like(params)),
        local_step=local_step,
        local_end=local_end,
        objection=needs_mean("scaffold"),
    )
