"""Batch plans: in what order a client sees its data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedsim.rng import bits, mix, permutations
from fedsim.types import BatchPlan
from fedsim.validate import at_least


def shuffled_epochs(*, epochs: int, batch_size: int) -> BatchPlan:
    """Each epoch is a fresh random order of all examples, cut into batches; the last may be short.

    Raises:
        InputError: epochs or batch_size is below 1.

    Guarantees:
        Every example is used exactly once in every epoch.
        A client's batches do not depend on the other clients of the call.
    """
    at_least("shuffled_epochs", 1, "Use 1.", epochs=epochs)
    at_least("shuffled_epochs", 1, "Use 32.", batch_size=batch_size)

    def num_steps(count: int) -> int:
        return epochs * math.ceil(count / batch_size)

    def schedule(
        counts: Tensor, keys: Tensor, round_num: int, scores: Tensor | None = None
    ) -> Tensor:
        widest = math.ceil(int(counts.max()) / batch_size)  # batches in the longest epoch
        epoch_keys = mix(keys.unsqueeze(1) ^ torch.arange(epochs, device=keys.device))  # [k, E]
        order = permutations(
            epoch_keys.flatten(), counts.repeat_interleave(epochs), widest * batch_size
        ).reshape(len(counts), epochs * widest, batch_size)
        # Row e * widest + w of `order` is batch w of epoch e. Close the gaps of shorter clients.
        own = ((counts + batch_size - 1) // batch_size).clamp(min=1).unsqueeze(1)  # [k, 1]
        step = torch.arange(epochs * widest, device=keys.device)
        source = (step // own) * widest + step % own  # [k, steps]
        beyond = step >= own * epochs
        source = source.masked_fill(beyond, 0).unsqueeze(-1).expand(-1, -1, batch_size)
        return order.gather(1, source).masked_fill(beyond.unsqueeze(-1), -1)

    return BatchPlan(
        name=f"shuffled_epochs(epochs={epochs}, batch_size={batch_size})",
        batch_size=batch_size,
        schedule=schedule,
        num_steps=num_steps,
    )


def random_batches(*, steps: int, batch_size: int) -> BatchPlan:
    """So many steps whatever the client's size, each on a fresh draw with replacement.

    Raises:
        InputError: steps or batch_size is below 1.

    Guarantees:
        Every client that has an example takes exactly `steps` steps.
    """
    at_least("random_batches", 1, "Use 10.", steps=steps)
    at_least("random_batches", 1, "Use 32.", batch_size=batch_size)

    def num_steps(count: int) -> int:
        return steps if count else 0

    def schedule(
        counts: Tensor, keys: Tensor, round_num: int, scores: Tensor | None = None
    ) -> Tensor:
        words = bits(keys, steps * batch_size) & torch.iinfo(torch.int64).max
        places = words % counts.clamp(min=1).unsqueeze(1)
        places = places.masked_fill(counts.unsqueeze(1) == 0, -1)
        return places.reshape(len(counts), steps, batch_size)

    return BatchPlan(
        name=f"random_batches(steps={steps}, batch_size={batch_size})",
        batch_size=batch_size,
        schedule=schedule,
        num_steps=num_steps,
    )
