"""FedNova: clients that take more steps do not count for more.

Paper
    Wang, Liu, Liang, Joshi, Poor. "Tackling the Objective Inconsistency Problem in Heterogeneous
    Federated Optimization". NeurIPS 2020. arXiv:2007.07481, equation 8.

Notation
    x^t server.params    d_i client i's mean step    r_i = lr ||a_i||_1 how far it went
    p_i weights, sum 1

Algorithm
    1  for t = 1..T:
    2      send x^t to the cohort S_t
    3      each i in S_t:  y <- x^t;  K_i local steps
    4          r_i = lr ||a_i||_1:  lr K_i for plain SGD;  d_i = (y - x^t) / r_i;  send d_i and r_i
    5      x^{t+1} = x^t + server_lr (sum_i p_i r_i) (sum_i p_i d_i)

Deviations
    r_i is the step rule's reach, which has the paper's form of ||a_i||_1 for momentum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedsim.core import trees
from fedsim.core.errors import positive
from fedsim.core.scenario import AnyStrategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from fedsim.core.updates import Released
from strategies.fedavg import Local, Model, Nothing, Server, fedavg
from strategies.shared.reach import counted


def fednova(*, steps: StepRule[Any], server_lr: float = 1.0) -> AnyStrategy:
    """Normalised averaging.

    Args:
        steps: how a client moves (line 3).
        server_lr: how far the server follows (line 5), > 0.

    Raises:
        InputError: server_lr is not above 0.

    Guarantees:
        Where all clients take as many steps it equals FedAvg.
        With unequal steps it ends near the optimum of the mean loss, and FedAvg elsewhere.
    """
    positive("fednova", "Use 1.", server_lr=server_lr)
    rule, reach = counted(steps)
    base: AnyStrategy = fedavg(steps=rule)  # line 3

    def local_end(local: Local, model: Model, client: Nothing) -> tuple[Tree, Nothing]:  # line 4
        far = reach(local.rule)
        mean_step = trees.scale(trees.subtract(local.params, model.params), 1 / far)
        return mean_step | {"reach/": far.unsqueeze(0)}, client

    def update(server: Server, released: Released) -> Server:  # line 5
        far = server_lr * released.diff["reach/"]
        return Server(trees.add_scaled(server.params, released.diff, far))

    return replace(
        base,
        name="fednova",
        update=update,
        local_end=local_end,
    )
