"""Batch plans: in what order a client sees its data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedsim.rng import bits, mix, permutations
from fedsim.types import BatchPlan
from fedsim.validate import at_least


def end_to_end(passes: Tensor, steps: Tensor) -> Tensor:
    """Passes over the data, one after the other without gaps: a schedule [k, all steps, b].

    Args:
        passes: [k, passes, w, b], the batches of each pass; of pass p the first steps[:, p] count.
        steps: [k, passes].
    """
    k, _, widest, batch_size = passes.shape
    ends = steps.cumsum(dim=1)
    step = torch.arange(int(ends[:, -1].max()), device=passes.device).expand(k, -1).contiguous()
    beyond = step >= ends[:, -1:]
    turn = torch.searchsorted(ends, step, right=True).masked_fill(beyond, 0)  # the step's pass
    source = turn * widest + step - (ends - steps).gather(1, turn)
    source = source.masked_fill(beyond, 0).unsqueeze(-1).expand(-1, -1, batch_size)
    return passes.flatten(1, 2).gather(1, source).masked_fill(beyond.unsqueeze(-1), -1)


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
        ).reshape(len(counts), epochs, widest, batch_size)
        own = (counts + batch_size - 1) // batch_size
        return end_to_end(order, own.unsqueeze(1).expand(-1, epochs))

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
