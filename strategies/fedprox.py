"""FedProx: FedAvg with a proximal term in every client's objective.

Paper
    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith. "Federated Optimization in Heterogeneous
    Networks". MLSys 2020. arXiv:1812.06127, Algorithm 2.

Notation
    x^t model.params    mu mu    S_t cohort    F_i client i's mean loss

Algorithm
    1  for t = 1..T:
    2      send x^t to the cohort S_t
    3      each i in S_t:  y ~ argmin_y  F_i(y) + (mu / 2) ||y - x^t||^2
    4      x^{t+1} = x^t + sum_i p_i (y_i - x^t)

Deviations
    Line 3 is solved inexactly, by the steps of the batch plan and the step rule.  The paper samples
    clients by size and averages them alike; here both are the scenario's choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle
from fedsim.core.errors import non_negative
from fedsim.core.scenario import Strategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from strategies.fedavg import Local, Model, Nothing, Server, fedavg


def fedprox(
    *, steps: StepRule[Any], mu: float, server_lr: float = 1.0
) -> Strategy[Server, Model, Nothing, Local]:
    """FedAvg whose clients are held near the model they received.

    Args:
        steps: how a client moves on the proximal objective (line 3).
        mu: strength of the proximal term, >= 0; 0.001 to 1 in the paper.
        server_lr: as in FedAvg.

    Raises:
        InputError: mu is negative or server_lr is not above 0.

    Guarantees:
        With mu = 0 it equals FedAvg bit for bit.
        Many exact local steps converge to the proximal point.
    """
    non_negative("fedprox", "Use 0.01.", mu=mu)

    def local_step(
        local: Local, batch: Batch, oracle: Oracle, model: Model, client: Nothing
    ) -> Local:  # line 3: the gradient of the proximal objective
        def gradient(y: Tree) -> Tree:
            return trees.add_scaled(oracle.gradient(y, batch), trees.subtract(y, model.params), mu)

        return Local(*steps.step(local.rule, local.params, gradient))

    return replace(fedavg(steps=steps, server_lr=server_lr), name="fedprox", local_step=local_step)
