"""Batch plans: in what order a client sees its data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fedsim.core.errors import InputError, at_least
from fedsim.core.rng import bits, mix, permutations
from fedsim.core.sampling import Sampling
from fedsim.core.scenario import BatchPlan


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

    def order(counts: Tensor, keys: Tensor, width: int) -> Tensor:
        epoch_keys = mix(keys.unsqueeze(1) ^ torch.arange(epochs, device=keys.device))  # [k, E]
        every = permutations(epoch_keys.flatten(), counts.repeat_interleave(epochs), width)
        return every.reshape(len(counts), epochs, width)

    return _epochs("shuffled_epochs", epochs, batch_size, order, "shuffled", "shuffled epochs")


def ordered_epochs(*, epochs: int, batch_size: int) -> BatchPlan:
    """Each epoch goes through the client's examples in the same order, as they were dealt.

    Raises:
        InputError: epochs or batch_size is below 1.

    Guarantees:
        Between two uses of an example lie ceil(examples / batch_size) - 1 steps, in all rounds.
    """

    def order(counts: Tensor, keys: Tensor, width: int) -> Tensor:
        place = torch.arange(width).expand(len(counts), -1)
        once = place.masked_fill(place >= counts.unsqueeze(1), -1)
        return once.unsqueeze(1).expand(-1, epochs, -1)

    return _epochs("ordered_epochs", epochs, batch_size, order, "ordered", "epochs in one order")


def _epochs(
    who: str,
    epochs: int,
    batch_size: int,
    order: Callable[[Tensor, Tensor, int], Tensor],
    kind: Literal["shuffled", "ordered"],
    words: str,
) -> BatchPlan:
    """Whole passes cut into batches. order: (counts [k], keys [k], w) -> places [k, epochs, w]."""
    at_least(who, 1, "Use 1.", epochs=epochs)
    at_least(who, 1, "Use 32.", batch_size=batch_size)

    def num_steps(count: int) -> int:
        return epochs * math.ceil(count / batch_size)

    def schedule(
        counts: Tensor, keys: Tensor, round_num: int, scores: Tensor | None = None
    ) -> Tensor:
        widest = math.ceil(int(counts.max()) / batch_size)  # batches in the longest epoch
        places = order(counts, keys, widest * batch_size)
        passes = places.reshape(len(counts), epochs, widest, batch_size)
        own = (counts + batch_size - 1) // batch_size
        return end_to_end(passes, own.unsqueeze(1).expand(-1, epochs))

    return BatchPlan(
        name=f"{who}(epochs={epochs}, batch_size={batch_size})",
        schedule=schedule,
        num_steps=num_steps,
        sampling=Sampling(kind=kind, words=words, passes=epochs),
        expected=lambda count: float(batch_size),
    )


def poisson_batches(*, steps: int, sampling_prob: float) -> BatchPlan:
    """So many steps; in each, every example takes part by itself with probability sampling_prob.

    A batch may be empty, and that is a step like any other. One that is longer than what is
    exceeded with probability 1e-40 is cut off there; `sampling` says so, and it is charged for.

    Raises:
        InputError: steps is below 1, or sampling_prob is not in (0, 1].

    Guarantees:
        Whether an example is in a batch says nothing about any other example or step.
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
        """What a batch exceeds with probability 1e-40 at most."""
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


_OVERFLOW = 1e-40


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
        schedule=schedule,
        num_steps=num_steps,
        sampling=Sampling(kind="replacement", words="drawn with replacement"),
        expected=lambda count: float(batch_size),
    )
