"""FedDecorr: clients keep the features of a batch uncorrelated, against dimensional collapse.

Paper
    Shi, Liang, Zhang, Tan, Bai. "Towards Understanding and Mitigating Dimensional Collapse in
    Heterogeneous Federated Learning". ICLR 2023. arXiv:2210.00226, equation 7.

Notation
    Z features of a batch, standardised over it, [b, f]    K their correlations, [f, f]    beta beta

Algorithm (FedAvg, with this local loss)
    1  K = Z^T Z / b
    2  L = mean_b CE_b + beta ||K||_F^2 / f^2;  y <- y - lr grad L

Deviations
    A batch of one example has no correlations and no penalty.  The penalty couples the examples of
    a batch, so it is refused where gradients are clipped for each example.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedsim.core.batch import Batch, Oracle, Outputs, Penalty
from fedsim.core.errors import non_negative
from fedsim.core.scenario import AnyStrategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from strategies.fedavg import Local, Model, Nothing, fedavg

_TINY = 1e-8


def feddecorr(*, steps: StepRule[Any], beta: float = 0.1) -> AnyStrategy:
    """FedAvg with a penalty on correlated features.

    Args:
        steps: how a client moves (line 2).
        beta: weight of the penalty, >= 0.

    Raises:
        InputError: beta is negative.

    Guarantees:
        With beta = 0 it equals FedAvg.
        Uncorrelated features cost beta / f, the least there is; equal ones cost beta.
    """
    non_negative("feddecorr", "Use 0.1.", beta=beta)

    def correlated(outputs: Outputs, mask: Tensor) -> Tensor:
        z, count = outputs.features.flatten(1), mask.sum()
        weights = (mask / count.clamp(min=1)).unsqueeze(1)
        z = z - (weights * z).sum(dim=0)
        z = z * ((weights * z.square()).sum(dim=0) + _TINY).rsqrt()
        k = z.T @ (weights * z)  # line 1
        cost = beta * k.square().sum() / z.shape[1] ** 2
        return torch.where(count > 1, cost, 0.0).expand(mask.shape)

    penalty = Penalty(correlated, separable=False)

    def local_step(
        local: Local, batch: Batch, oracle: Oracle, model: Model, client: Nothing
    ) -> Local:  # line 2
        def gradient(y: Tree) -> Tree:
            return oracle.gradient(y, batch, penalty)

        return Local(*steps.step(local.rule, local.params, gradient))

    return replace(fedavg(steps=steps), name="feddecorr", local_step=local_step)
