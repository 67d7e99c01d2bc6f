"""Other accountants' numbers for the same events, to be shown beside ours.

Every one is asked only what it can answer: they return 0 for NaN, negative numbers for a count
below 0, or nothing for hours (see `checks`).  What a batch's cap costs is not in these numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from privacy import validate
from privacy.accounting import rdp
from privacy.accounting.events import Event, Gaussian, PoissonGaussian
from privacy.accounting.gaussian import epsilon_of
from privacy.accounting.merge import merged, single

Steps = list[PoissonGaussian]  # each with a count and a positive noise multiplier

CLT = "CLT (approximate, not a guarantee)"


def beside(events: Sequence[Event], delta: float) -> dict[str, float | None]:
    """Epsilon by name of accountant; None where it cannot say, or would take too long.

    Raises:
        PrivacyError: delta is out of its range, or the events differ in neighbouring relation.

    Guarantees:
        The central limit theorem's number is never named without saying that it is approximate.
    """
    validate.delta("beside", delta)
    merged("beside", events)  # for its refusals
    steps = _steps(events)
    asked: dict[str, Callable[[Steps, float], float | None]] = {
        "dp-accounting RDP": _google_rdp,
        "Opacus RDP": _opacus_rdp,
        "Opacus PRV": _opacus_prv,
        CLT: _clt,
    }
    # Below, they divide by zero; above, rounding turns divergences negative, and they say 0.
    if steps is None or not all(1e-3 <= step.noise_multiplier <= 1e4 for step in steps):
        return dict.fromkeys(asked)
    return {name: ask(steps, delta) if steps else 0.0 for name, ask in asked.items()}


def _steps(events: Sequence[Event]) -> Steps | None:
    """The events as sampled steps; None when one is nothing of the kind, or has no noise."""
    counts: dict[PoissonGaussian, int] = {}
    for event in events:
        if isinstance(event, Gaussian):
            if event.mu == 0:
                continue
            noise = 1 / event.mu
            event = PoissonGaussian(sampling_prob=1.0, noise_multiplier=noise, count=event.count)
        if not isinstance(event, PoissonGaussian):
            return None
        if event.count and event.sampling_prob:
            if event.noise_multiplier == 0:
                return None
            counts[single(event)] = counts.get(single(event), 0) + event.count
    return [
        PoissonGaussian(
            sampling_prob=one.sampling_prob, noise_multiplier=one.noise_multiplier, count=count
        )
        for one, count in counts.items()
    ]


def _google_rdp(steps: Steps, delta: float) -> float | None:
    import dp_accounting

    accountant = dp_accounting.rdp.RdpAccountant()
    with rdp.quiet():
        for step in steps:
            noise = dp_accounting.GaussianDpEvent(step.noise_multiplier)
            sampled = dp_accounting.PoissonSampledDpEvent(step.sampling_prob, noise)
            accountant.compose(sampled, step.count)
    return max(0.0, float(accountant.get_epsilon(delta)))


def _opacus_rdp(steps: Steps, delta: float) -> float | None:
    if min(step.noise_multiplier for step in steps) < 0.1:
        return None
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(s.noise_multiplier, s.sampling_prob, s.count) for s in steps]
    with _undisturbed():
        return max(0.0, float(accountant.get_epsilon(delta)))


def _opacus_prv(steps: Steps, delta: float) -> float | None:
    """Memory and time grow with the reach of the losses times the square root of the steps."""
    count = sum(step.count for step in steps)
    total = rdp.rdp(steps)
    if total is None or min(step.noise_multiplier for step in steps) < 0.2 or delta < 1e-12:
        return None
    if count > 300_000 or rdp.epsilon_from_rdp(total, 1e-15) * math.sqrt(count) > 4000:
        return None
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(s.noise_multiplier, s.sampling_prob, s.count) for s in steps]
    with _undisturbed():
        try:
            return max(0.0, float(accountant.get_epsilon(delta)))
        except (RuntimeError, ValueError):  # "Cannot compute epsilon", and failed root searches
            return None


def _clt(steps: Steps, delta: float) -> float | None:
    """Bu, Dong, Long, Su (2020), arXiv:1911.11607: mu = q sqrt(T (e^(1/z^2) - 1))."""
    square = 0.0
    for step in steps:
        if step.noise_multiplier < 0.05:  # e^400: no limit theorem is near
            return None
        grown = math.expm1(step.noise_multiplier**-2)
        square += step.count * step.sampling_prob**2 * grown
    return epsilon_of(delta, math.sqrt(square))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without Opacus's remarks on its choice of orders, and on logarithms that it discards."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", "Optimal order is the")
        yield
