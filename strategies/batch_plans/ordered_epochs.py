"""Ordered epochs: passes over the data, always in the same order."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.scenario import BatchPlan
from strategies.batch_plans._epochs import plan_epochs


def ordered_epochs(*, epochs: int, batch_size: int) -> BatchPlan:
    """Each epoch goes through the client's examples in the same order, as they were dealt.

    Raises:
        InputError: epochs or batch_size is below 1.

    Guarantees:
        Between two uses of an example there are ceil(examples / batch_size) - 1 steps.
    """

    def order(counts: Tensor, keys: Tensor, width: int) -> Tensor:
        place = torch.arange(width).expand(len(counts), -1)
        once = place.masked_fill(place >= counts.unsqueeze(1), -1)
        return once.unsqueeze(1).expand(-1, epochs, -1)

    return plan_epochs(
        "ordered_epochs", epochs, batch_size, order, "ordered", "epochs in one order"
    )
