"""FedLD: a penalty on over-confidence on clients, principal directions of updates on the server.

Paper
    Zeng, Guo, Wang, Wang, Zhou, Qu. "Tackling Data Heterogeneity in Federated Learning via Loss
    Decomposition". MICCAI 2024. arXiv:2408.12300; the formulas are those of the authors' code.

Notation
    pi_b softmax of example b's logits, [C]

Algorithm (lines 2 to 6, the server half: strategies/aggregators/principal_directions.py)
    1  each i in S_t:  L = mean_b [ CE_b + mu log(1 + ||pi_b||^2) ];  y <- y - lr grad L

Deviations
    Line 1 has the penalty of each example, so that it does not depend on the batch's size and can
    be clipped with the example; form="batch" is the code's, log(1 + sum_b ||pi_b||^2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from fedsim.core.batch import Batch, Oracle, Outputs, Penalty
from fedsim.core.errors import non_negative
from fedsim.core.scenario import AnyStrategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from strategies.fedavg import Local, Model, Nothing, fedavg


def fedld(
    *, steps: StepRule[Any], mu: float = 0.1, form: Literal["example", "batch"] = "example"
) -> AnyStrategy:
    """The client half of FedLD, margin control; pair it with `principal_directions()`.

    Args:
        steps: how a client moves (line 1).
        mu: weight of the penalty, >= 0.
        form: of each example, or of a batch as one.

    Raises:
        InputError: mu is negative.

    Guarantees:
        With mu = 0 it equals FedAvg.
        At uniform logits the penalty moves nothing.
    """
    non_negative("fedld", "Use 0.1.", mu=mu)

    def of_examples(outputs: Outputs, mask: Tensor) -> Tensor:
        return mu * torch.log1p(outputs.logits.softmax(dim=-1).square().sum(dim=-1))

    def of_batch(outputs: Outputs, mask: Tensor) -> Tensor:
        each = outputs.logits.softmax(dim=-1).square().sum(dim=-1)
        return (mu * torch.log1p((each * mask).sum())).expand(mask.shape)

    penalty = Penalty(of_examples) if form == "example" else Penalty(of_batch, separable=False)

    def local_step(
        local: Local, batch: Batch, oracle: Oracle, model: Model, client: Nothing
    ) -> Local:  # line 1
        def gradient(y: Tree) -> Tree:
            return oracle.gradient(y, batch, penalty)

        return Local(*steps.step(local.rule, local.params, gradient))

    return replace(fedavg(steps=steps), name="fedld", local_step=local_step)
