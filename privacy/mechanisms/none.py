"""No privacy, declared: the same path as every mechanism, with no bound and no noise.

Unit of privacy    none
Trust              everyone sees everything
"""

from __future__ import annotations

import math

from fedsim.core.scenario import Mechanism
from fedsim.core.updates import Aggregate, Bounded, Noise, Released, Update


def none() -> Mechanism[tuple[()]]:
    """Release every aggregate as it is.

    Guarantees:
        The released update equals the aggregate bit for bit.
    """

    def bound(state: tuple[()], update: Update) -> Bounded:
        return Bounded(update.diff, update.num_examples, l2_bound=math.inf)

    def release(state: tuple[()], aggregate: Aggregate, noise: Noise) -> tuple[Released, tuple[()]]:
        return Released(aggregate.diff, aggregate.share), state

    return Mechanism(
        name="none",
        unit="none",
        statement="No privacy: updates are neither bounded nor noised.",
        bound=bound,
        release=release,
        losses_are_public=True,
    )
