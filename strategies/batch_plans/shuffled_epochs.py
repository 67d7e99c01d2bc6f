"""Shuffled epochs: passes over the data, each in a fresh random order."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.rng import mix, permutations
from fedsim.core.scenario import BatchPlan
from strategies.batch_plans._epochs import plan_epochs


def shuffled_epochs(*, epochs: int, batch_size: int) -> BatchPlan:
    """Each epoch is a fresh random order of all examples, cut into batches; the last may be short.

    Raises:
        InputError: epochs or batch_size is below 1.

    Guarantees:
        Every example is used exactly once in every epoch.
        A client's batches do not depend on the other clients of the call.
    """

    def order(counts: Tensor, keys: Tensor, width: int) -> Tensor:
        epoch_keys = mix(keys.unsqueeze(1) ^ torch.arange(epochs, device=keys.device))  # [k, E]
        every = permutations(epoch_keys.flatten(), counts.repeat_interleave(epochs), width)
        return every.reshape(len(counts), epochs, width)

    return plan_epochs("shuffled_epochs", epochs, batch_size, order, "shuffled", "shuffled epochs")
