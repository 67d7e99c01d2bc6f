"""FedDyn: every client's objective carries a linear term that cancels its drift.

Paper
    Acar, Zhao, Matas, Mattina, Whatmough, Saligrama. "Federated Learning Based on Dynamic
    Regularization". ICLR 2021. arXiv:2111.04263, Algorithm 1.

Notation
    x^t server.params    h server.dual    g_i client.dual    a strength    m clients in all
    F_i client i's mean loss    S_t cohort

Algorithm
    1  h = 0, all g_i = 0;  for t = 1..T:
    2      send x^t to the cohort S_t
    3      each i in S_t:  y ~ argmin_y  F_i(y) - <g_i, y> + (a / 2) ||y - x^t||^2
    4          diff_i = y - x^t;  g_i <- g_i - a diff_i;  send diff_i
    5      h <- h - (a / m) sum_{i in S_t} diff_i
    6      x^{t+1} = mean_{i in S_t} y_i - h / a

Deviations
    Line 3 is solved inexactly, by the steps of the batch plan and the step rule.  Where the
    aggregator weighs clients by size, so do both means of lines 5 and 6; the paper's are uniform.
    Line 4 is in effect only once the server has accepted the reply: h never disagrees with the g_i.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle
from fedsim.core.errors import positive
from fedsim.core.scenario import AnyStrategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from fedsim.core.updates import Released
from strategies.aggregators.mean import needs_mean
from strategies.fedavg import Local, Model, fedavg


class Server(NamedTuple):
    """params: x^t; dual: h, the mean over the population of the g_i."""

    params: Tree
    dual: Tree


class Dual(NamedTuple):
    """A client's memory. dual: g_i, in units of a gradient."""

    dual: Tree


def feddyn(*, steps: StepRule[Any], strength: float = 0.1) -> AnyStrategy:
    """Dynamic regularisation; it converges to the optimum of the mean loss under partial cohorts.

    Args:
        steps: how a client moves on its regularised objective (line 3).
        strength: a, > 0; 0.01 to 0.1 in the paper. Its inverse times the learning rate should be
            above 1, or the regulariser overshoots.

    Raises:
        InputError: strength is not above 0.

    Guarantees:
        On heterogeneous quadratics with half of the clients a round it reaches the exact optimum.
        Started at the optimum with the duals at the clients' gradients, it stays there.
        The server's h is the mean of the clients' g_i after any cohorts.
    """
    positive("feddyn", "Use 0.1.", strength=strength)
    base: AnyStrategy = fedavg(steps=steps)

    def init(params: Tree) -> Server:  # line 1
        return Server(params, trees.zeros_like(params))

    def local_step(
        local: Local, batch: Batch, oracle: Oracle, model: Model, client: Dual
    ) -> Local:  # line 3
        def gradient(y: Tree) -> Tree:
            return regularised(oracle.gradient(y, batch), y, model, client, strength)

        return Local(*steps.step(local.rule, local.params, gradient))

    def local_end(local: Local, model: Model, client: Dual) -> tuple[Tree, Dual]:  # line 4
        diff = trees.subtract(local.params, model.params)
        return diff, Dual(trees.add_scaled(client.dual, diff, -strength))

    def update(server: Server, released: Released) -> Server:
        dual = trees.add_scaled(server.dual, released.diff, -strength * released.share)  # line 5
        ends = trees.add(server.params, released.diff)
        return Server(trees.add_scaled(ends, dual, -1 / strength), dual)  # line 6

    return replace(
        base,
        name="feddyn",
        init=init,
        update=update,
        client_init=lambda params: Dual(trees.zeros_like(params)),
        local_step=local_step,
        local_end=local_end,
        objection=needs_mean("feddyn"),
    )


def regularised(gradient: Tree, y: Tree, model: Model, client: Dual, strength: float) -> Tree:
    """The gradient of line 3's objective at y, from that of F_i: grad - g_i + a (y - x^t)."""
    pull = trees.subtract(y, model.params)
    return trees.add_scaled(trees.subtract(gradient, client.dual), pull, strength)
