"""Poisson batches: every example is drawn independently in every step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedsim.core.errors import InputError, at_least
from fedsim.core.rng import bits, mix
from fedsim.core.sampling import Sampling
from fedsim.core.scenario import BatchPlan

_OVERFLOW = 1e-40


def poisson_batches(*, steps: int, sampling_prob: float) -> BatchPlan:
    """A number of steps; in each, every example is drawn independently with sampling_prob.

    A batch may be empty, and is a step all the same. A batch is cut at a length that is exceeded
    with probability at most 1e-40; `sampling` states it, and accountants charge it.

    Raises:
        InputError: steps is below 1, or sampling_prob is not in (0, 1].

    Guarantees:
        Whether an example is in a batch is independent of all other examples and steps.
        Every client that has an example takes exactly `steps` steps, empty ones included.
        A client's batches do not depend on the other clients of the call.

    Source: Devroye (1986), "Non-uniform random variate generation", chapter X.4: the gaps between
        successes are geometric, so a draw costs a batch and not the client's examples. Bernstein's
        inequality for the longest batch.
    """
    at_least("poisson_batches", 1, "Use 10.", steps=steps)
    if not 0 < sampling_prob <= 1:
        raise InputError(
            f"poisson_batches: sampling_prob must be in (0, 1]; got {sampling_prob}. Use 0.01."
        )

    def longest(count: int) -> int:
        """A length that a batch exceeds with probability at most 1e-40."""
        mean, rare = sampling_prob * count, -math.log(_OVERFLOW)
        return min(count, math.ceil(mean + rare / 3 + math.sqrt(rare**2 / 9 + 2 * rare * mean)))

    def num_steps(count: int) -> int:
        return steps if count else 0

    def schedule(
        counts: Tensor, keys: Tensor, round_num: int, scores: Tensor | None = None
    ) -> Tensor:
        most = [longest(count) for count in counts.tolist()]
        step_keys = mix(keys.unsqueeze(1) ^ torch.arange(steps, device=keys.device))  # [k, s]
        words = bits(step_keys, max(1, *most))
        uniform = ((words >> 11 & (1 << 53) - 1) + 1).to(torch.float64) * 2.0**-53  # (0, 1]
        skipped = (uniform.log() / math.log1p(-sampling_prob)) if sampling_prob < 1 else uniform * 0
        beyond = counts[:, None, None]
        # A gap past the end is as good as the end; so the sum of gaps stays a small whole number.
        places = skipped.clamp(max=2.0**40).to(torch.int64).add_(1).cumsum(dim=-1) - 1
        taken = places < beyond
        taken &= torch.arange(places.shape[-1]) < torch.tensor(most)[:, None, None]
        places = places.masked_fill(~taken, -1)
        return places[..., : max(1, int(taken.sum(dim=-1).max()))]

    return BatchPlan(
        name=f"poisson_batches(steps={steps}, sampling_prob={sampling_prob:g})",
        schedule=schedule,
        num_steps=num_steps,
        sampling=Sampling(
            kind="poisson",
            words="Poisson batches",
            sampling_prob=sampling_prob,
            overflow=_OVERFLOW if sampling_prob < 1 else 0.0,
        ),
        expected=lambda count: sampling_prob * count,
    )
