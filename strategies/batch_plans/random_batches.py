"""Random batches: a fixed number of steps, each on examples drawn with replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.errors import at_least
from fedsim.core.rng import bits
from fedsim.core.sampling import Sampling
from fedsim.core.scenario import BatchPlan


def random_batches(*, steps: int, batch_size: int) -> BatchPlan:
    """A number of steps, the same for every client, each on a fresh draw with replacement.

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
        schedule=schedule,
        num_steps=num_steps,
        sampling=Sampling(kind="replacement", words="drawn with replacement"),
        expected=lambda count: float(batch_size),
    )
