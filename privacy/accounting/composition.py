"""From events to epsilon: which accountant is valid for which list of events.

    list of events                          accountant
    nothing released                        exactly 0, no library
    Gaussian, Shuffled only                 closed form
    zero-out: Poisson, truncated, Gaussian  privacy loss distributions
    replace: PoissonReplace, Gaussian       privacy loss distributions
    replace: FixedSize, Gaussian            Renyi
    losses too far for a grid               Renyi

A sampled step is never worse than the same step without sampling (joint convexity), so the closed
form without amplification bounds every list, too: the smaller of two bounds is reported.  Events
of the two neighbouring relations are never mixed: their sum would be a statement about neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from privacy import validate
from privacy.accounting import pld, rdp
from privacy.accounting.events import Event, FixedSize, Gaussian, Shuffled, Unsupported
from privacy.accounting.fdp.conversions import from_losses, from_rdp
from privacy.accounting.fdp.tradeoff import Array, TradeOff, from_delta, gaussian
from privacy.accounting.gaussian import epsilon_of
from privacy.accounting.merge import Plan, merged, overflow, unamplified
from privacy.accounting.shuffled import shuffled_epsilon

Released = tuple[pld.Sampled | Gaussian | FixedSize, ...]

_INFINITE = "A sum is released without noise, or its batches are cut short too often."


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a list of events spends.

    Attributes:
        epsilon: upper bound; None when nothing is guaranteed, inf when nothing is hidden.
        lower: a lower bound on the true epsilon where only an interval is known, else epsilon.
        delta: the failure probability that epsilon is for.
        method: which accountant spoke.
        grid: width of its grid of privacy losses; None without one.
        reason: why there is no guarantee; empty when there is one.
    """

    epsilon: float | None
    lower: float | None
    delta: float
    method: str
    grid: float | None = None
    reason: str = ""

    @property
    def guarantee(self) -> bool:
        """Whether epsilon is a finite number that holds."""
        return self.epsilon is not None and math.isfinite(self.epsilon)


def account(events: Sequence[Event], delta: float) -> Report:
    """The epsilon that a list of releases spends together, as exactly as it can be had.

    Args:
        events: in any order; the order does not matter.
        delta: failure probability of the whole, in (0, 1).

    Raises:
        PrivacyError: delta is out of its range, or the events differ in neighbouring relation.

    Guarantees:
        Nothing released costs exactly 0.
        An unsupported event gives no number.
        Noise of exactly 0 costs an infinite epsilon.
    """
    validate.delta("account", delta)
    return _account(merged("account", events), float(delta), pld.fine)


def epsilon(events: Sequence[Event], delta: float) -> float | None:
    """`account(events, delta).epsilon` to within 0.5 %, on a grid for a counter in every round.

    Raises:
        PrivacyError: as `account`.

    Guarantees:
        It does not depend on what was asked before.
    """
    validate.delta("epsilon", delta)
    return _account(merged("epsilon", events), float(delta), pld.quick).epsilon


def rdp_epsilon(events: Sequence[Event], delta: float) -> float | None:
    """An upper bound on epsilon through Renyi divergences alone; None when an event has none.

    Raises:
        PrivacyError: as `account`.
    """
    validate.delta("rdp_epsilon", delta)
    plan = merged("rdp_epsilon", events)
    total = rdp.rdp(plan)
    if total is None:
        return None
    return _paying(lambda rest: _by_rdp(total, rest), delta, overflow(plan)).epsilon


def tradeoff(events: Sequence[Event]) -> TradeOff:
    """The trade-off curve that a list of releases leaves to any attack, never above the truth.

    Raises:
        PrivacyError: an event is unsupported, or the events differ in neighbouring relation.

    Guarantees:
        Nothing released leaves 1 - alpha.
    """
    plan = merged("tradeoff", events)
    for event in plan:
        if isinstance(event, Unsupported):
            remedy = f"There is no guarantee: {event.reason}"
            raise validate.refusal("tradeoff", "events", "supported", event, remedy)
    return _cut_short(_curve(*released_as(plan)), overflow(plan))


def _cut_short(f: TradeOff, cut: float) -> TradeOff:
    """What `_paying` does, at every epsilon; beyond the cheapest epsilon delta stays as it is."""
    if not cut:
        return f

    def paid(epsilon: ArrayLike) -> Array:
        return np.asarray(f.delta(epsilon) + (1 + np.exp(epsilon)) * cut)

    found = minimize_scalar(lambda e: float(paid(e)), bounds=(0.0, 100.0), method="bounded")
    return from_delta(lambda epsilon: np.minimum(paid(np.minimum(epsilon, found.x)), 1))


def _curve(released: Released, mu: float) -> TradeOff:
    if math.isinf(mu) or all(isinstance(event, Gaussian) for event in released):
        return gaussian(mu)
    smooth = _with_losses(released)
    if smooth:
        return from_losses(pld.composed(smooth, pld.fine_grid(smooth)))
    total = rdp.rdp(released)
    return gaussian(mu) if total is None else from_rdp(rdp.ORDERS, total.tolist())


@dataclass(frozen=True, kw_only=True)
class _Bound:
    """An epsilon that holds at some delta, and who says so."""

    epsilon: float
    method: str
    grid: float | None = None


@lru_cache(maxsize=4096)
def _account(plan: Plan, delta: float, search: pld.Search) -> Report:
    for event in plan:
        if isinstance(event, Unsupported):
            return Report(epsilon=None, lower=None, delta=delta, method="none", reason=event.reason)
    if not plan:
        return Report(epsilon=0.0, lower=0.0, delta=delta, method="nothing released")
    found = min(_bounds(plan, delta, search), key=lambda bound: bound.epsilon)
    if math.isinf(found.epsilon):
        infinite = Report(epsilon=math.inf, lower=math.inf, delta=delta, method=found.method)
        return replace(infinite, reason=_INFINITE)
    shuffled = [event for event in plan if isinstance(event, Shuffled)]
    known = [shuffled_epsilon(delta, e.noise_multiplier, e.batches) for e in shuffled]
    return Report(
        epsilon=found.epsilon,
        lower=min(found.epsilon, max(known, default=found.epsilon)),
        delta=delta,
        method=found.method,
        grid=found.grid,
    )


def _bounds(plan: Plan, delta: float, search: pld.Search) -> Iterator[_Bound]:
    """Every bound that holds for the plan, each with the union bound for its caps paid."""
    cut = overflow(plan)
    released, mu = released_as(plan)
    closed = all(isinstance(event, Gaussian) for event in released)
    method = "gaussian, closed form" if closed else "gaussian, no amplification"
    yield _paying(lambda rest: _Bound(epsilon=epsilon_of(rest, mu), method=method), delta, cut)
    if closed or math.isinf(mu):
        return
    smooth = _with_losses(released)
    lost = pld.slack(smooth)
    if smooth and delta > 2 * lost:

        def by_losses(rest: float) -> _Bound:
            if rest <= lost:
                return _Bound(epsilon=math.inf, method="pld")
            found, grid = search(smooth, rest - lost)
            return _Bound(epsilon=found, method=f"pld(h={grid:.3g})", grid=grid)

        yield _paying(by_losses, delta, cut)
    total = rdp.rdp(released)
    if total is not None:
        yield _paying(lambda rest: _by_rdp(total, rest), delta, cut)


def _with_losses(released: Released) -> pld.Plan:
    """The same events where a grid of losses can hold them all, nothing where it cannot."""
    smooth = tuple(event for event in released if not isinstance(event, FixedSize))
    return smooth if smooth == released and pld.within_reach(smooth) else ()


def released_as(plan: Plan) -> tuple[Released, float]:
    """The plan with nothing claimed for shuffling, and the mu that claims nothing for sampling."""
    known = [event for event in plan if not isinstance(event, Unsupported)]
    released = tuple(unamplified(e) if isinstance(e, Shuffled) else e for e in known)
    ceilings = map(unamplified, released)
    return released, math.hypot(*(e.mu * math.sqrt(e.count) for e in ceilings))


def _by_rdp(total: rdp.Divergences, delta: float) -> _Bound:
    return _Bound(epsilon=rdp.epsilon_from_rdp(total, delta), method="rdp")


def _paying(bound: Callable[[float], _Bound], delta: float, cut: float) -> _Bound:
    """A bound that holds though batches are cut short with a probability of up to `cut`.

    The real run differs from the one without a cap by `cut` in total variation, at both of two
    neighbours: delta must pay (1 + e^epsilon) * cut.  The epsilon that it leaves is raised until
    it pays for itself.
    """
    claimed = 0.0 if cut else math.inf
    for _ in range(100):
        rest = delta - (1 + math.exp(min(claimed, 700.0))) * cut if cut else delta
        if rest <= 0:
            break
        found = bound(rest)
        if found.epsilon <= claimed:
            return replace(found, epsilon=claimed) if cut else found
        claimed = found.epsilon * (1 + 1e-9)
    return _Bound(epsilon=math.inf, method="caps not affordable")
