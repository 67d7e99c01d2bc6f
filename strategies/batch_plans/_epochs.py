"""Batch plans that pass over the whole data of a client."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fedsim.core.errors import at_least
from fedsim.core.sampling import Sampling
from fedsim.core.scenario import BatchPlan


def plan_epochs(
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
        return join_passes(passes, own.unsqueeze(1).expand(-1, epochs))

    return BatchPlan(
        name=f"{who}(epochs={epochs}, batch_size={batch_size})",
        schedule=schedule,
        num_steps=num_steps,
        sampling=Sampling(kind=kind, words=words, passes=epochs),
        expected=lambda count: float(batch_size),
    )


def join_passes(passes: Tensor, steps: Tensor) -> Tensor:
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
