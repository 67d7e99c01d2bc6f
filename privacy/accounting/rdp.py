"""Renyi accounting: additive, quick, and never below what privacy loss distributions say.

It bounds what they cannot reach (sampling without replacement, huge losses, a delta beyond their
rounding) and tells them how far a composition may reach.

Source
    Mironov, Talwar, Zhang (2019), arXiv:1908.10530, for Poisson sampling;
    Wang, Balle, Kasiviswanathan (2019), arXiv:1808.00087, Theorem 27, without replacement;
    Canonne, Kamath, Steinke (2020), arXiv:2004.00010, Proposition 12, for (epsilon, delta).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.events import Event, FixedSize, Gaussian, PoissonGaussian, Shuffled
from privacy.accounting.merge import single, unamplified

Divergences = NDArray[np.float64]
Sampled = Gaussian | PoissonGaussian | FixedSize

# dp-accounting's own, with more of them below 1.1 (large epsilon) and above 64 (small epsilon).
ORDERS: tuple[float, ...] = (
    *(1 + x / 100 for x in range(2, 10)),
    *(1 + x / 10 for x in range(1, 100)),
    *range(11, 64),
    *(round(64 * 2 ** (x / 4)) for x in range(21)),
)


def rdp(events: Sequence[Event]) -> Divergences | None:
    """Renyi divergence at each of ORDERS; None when an event has no known one."""
    total = np.zeros(len(ORDERS))
    for event in events:
        if isinstance(event, Shuffled):
            z = event.noise_multiplier
            event = Gaussian(mu=1 / z if z else math.inf, count=event.epochs)
        if not isinstance(event, Gaussian | PoissonGaussian | FixedSize):
            return None
        if event.count:
            total += event.count * _one(single(event))
    return total


def epsilon_from_rdp(total: Divergences, delta: float) -> float:
    """The best epsilon over ORDERS for these divergences."""
    if not total.any():
        return 0.0
    from dp_accounting.rdp import compute_epsilon

    return max(0.0, float(compute_epsilon(ORDERS, total, delta)[0]))


@lru_cache(maxsize=256)
def _one(event: Sampled) -> Divergences:
    """The divergences of a single step (not to be written to)."""
    if isinstance(event, Gaussian):
        return np.asarray(ORDERS) * (event.mu * event.mu / 2)
    ceiling = _one(unamplified(event))
    if event.noise_multiplier < 1e-3:  # the library divides by its square
        return ceiling
    import dp_accounting

    neighbours = dp_accounting.NeighboringRelation
    if isinstance(event, PoissonGaussian):
        noise = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        step = dp_accounting.PoissonSampledDpEvent(event.sampling_prob, noise)
        relation = neighbours.REPLACE_SPECIAL
    else:
        # The library wants noise_std / sensitivity, and one unit replaced moves the sum by 2 C.
        noise = dp_accounting.GaussianDpEvent(event.noise_multiplier / 2)
        step = dp_accounting.SampledWithoutReplacementDpEvent(event.population, event.cohort, noise)
        relation = neighbours.REPLACE_ONE
    accountant = dp_accounting.rdp.RdpAccountant(ORDERS, relation)
    with quiet():
        accountant.compose(step)
    found = np.asarray(accountant._rdp)  # the library has no public name for it
    # Rounding may turn a tiny divergence negative, and the library then says that epsilon is 0.
    orders = np.asarray(ORDERS)
    found = np.maximum(found, 0) + 1e-14 * orders / (orders - 1)
    return np.asarray(np.fmin(found, ceiling))


@contextmanager
def quiet() -> Iterator[None]:
    """Without dp-accounting's warning of each order whose series does not converge.

    Such an order counts as infinite, which is sound, and others are near.
    """
    log = logging.getLogger("absl")
    was, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was
