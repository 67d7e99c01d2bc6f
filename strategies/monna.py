"""MoNNA: clients step along a momentum of their own, which they keep from round to round.

Paper
    Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan. "Robust Collaborative Learning with Linear
    Gradient Overhead". ICML 2023. arXiv:2209.10931, Algorithm 1.

Notation
    x^t server.params    F_i client i's mean loss    xi one mini-batch    beta beta
    m_i client.momentum, in units of a gradient    f attackers of a round

Algorithm
    1  all m_i = 0;  for t = 1..T:
    2      send x^t to the cohort S_t
    3      each i in S_t:  y <- x^t;  for each mini-batch xi:
    4          m_i <- beta m_i + (1 - beta) grad F_i(y; xi);  y <- y - lr m_i
    5          send diff_i = y - x^t
    6      x^{t+1} = x^t + server_lr * nearest-neighbour average of the diff_i

Deviations
    The paper has no server: clients send each other their models after every step, and each does
    line 6 around its own (see strategies/aggregators/robust.py).  Here all clients start a round
    at x^t and may take several steps in it; with one step a round and full cohorts, line 4 is the
    paper's.
    Line 4 takes any step rule; one that needs the gradient at a second point z of a step gets
    beta m_i + (1 - beta) grad F_i(z; xi), with the old m_i.  m_i is kept once the server accepted
    the reply.  As in the paper m_i starts at 0, so that a client's first steps are short.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle
from fedsim.core.errors import in_unit_interval
from fedsim.core.scenario import AnyStrategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from strategies.fedavg import Model, fedavg


class Momentum(NamedTuple):
    """A client's memory. momentum: m_i."""

    momentum: Tree


class Moving(NamedTuple):
    """A client at work. params: y; rule: the step rule's state; momentum: m_i."""

    params: Tree
    rule: Any
    momentum: Tree


def monna(*, steps: StepRule[Any], beta: float = 0.9, server_lr: float = 1.0) -> AnyStrategy:
    """The client half of MoNNA, local momentum; pair it with `nearest_neighbours(byzantine=f)`.

    Honest momenta differ less than honest gradients, so Byzantine updates stand out more.

    Args:
        steps: how a client moves along its momentum (line 4).
        beta: in [0, 1); 0.99 in the paper, where every client takes hundreds of steps.
        server_lr: as in FedAvg.

    Raises:
        InputError: beta is outside [0, 1), or server_lr is not above 0.

    Guarantees:
        With beta = 0 it equals FedAvg.
        A client's momentum is the exponential average of all its gradients, over rounds too.
    """
    in_unit_interval("monna", "Use 0.9.", beta=beta)
    base: AnyStrategy = fedavg(steps=steps, server_lr=server_lr)

    def local_init(model: Model, client: Momentum) -> Moving:
        return Moving(model.params, steps.init(model.params, model.round_num), client.momentum)

    def local_step(
        local: Moving, batch: Batch, oracle: Oracle, model: Model, client: Momentum
    ) -> Moving:  # line 4
        def moved(z: Tree) -> Tree:
            old = trees.scale(local.momentum, beta)
            return trees.add_scaled(old, oracle.gradient(z, batch), 1 - beta)

        momentum = moved(local.params)

        def gradient(z: Tree) -> Tree:
            return momentum if z is local.params else moved(z)  # at y it is already known

        return Moving(*steps.step(local.rule, local.params, gradient), momentum)

    def local_end(local: Moving, model: Model, client: Momentum) -> tuple[Tree, Momentum]:  # line 5
        return trees.subtract(local.params, model.params), Momentum(local.momentum)

    return replace(
        base,
        name="monna",
        client_init=lambda params: Momentum(trees.zeros_like(params)),  # line 1
        local_init=local_init,
        local_step=local_step,
        local_end=local_end,
    )
