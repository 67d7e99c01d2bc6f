"""No privacy, declared: the same path as every mechanism, with no bound and no noise.

Unit of privacy    none
Trust              everyone sees everything
"""

from __future__ import annotations

import math

from torch import Generator

from fedsim.types import Aggregate, Bounded, Mechanism, Released, Update


def none() -> Mechanism:
    """Release every aggregate as it is.

    Guarantees:
        The released update equals the aggregate bit for bit.
    """

    def bound(update: Update) -> Bounded:
        return Bounded(update.diff, update.num_examples, l2_bound=math.inf)

    def release(aggregate: Aggregate, noise: Generator) -> Released:
        return Released(aggregate.diff, aggregate.share)

    return Mechanism(
        name="none",
        unit="none",
        statement="No privacy: updates are neither bounded nor noised.",
        bound=bound,
        release=release,
    )
