"""Trade-off functions to and from privacy loss distributions and Renyi divergences.

Whatever is lost on the way is lost to the safe side: a table of delta(epsilon) is read by straight
lines in e^epsilon, which lie above a convex function; a curve is bounded by its tangents.

Source
    Balle, Barthe, Gaboardi, Hsu, Sato (2020), arXiv:1905.09982, for Renyi divergences;
    Doroshenko et al. (2022), arXiv:2207.04380, for losses on a grid ("connect the dots").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from privacy import validate
from privacy.accounting.fdp.from_pairs import from_pairs
from privacy.accounting.fdp.tradeoff import Array, TradeOff, from_delta, gaussian

_KNOTS = 10_001
_POINTS = 20_000  # of a grid of losses, to each side of 0


def from_losses(losses: Any) -> TradeOff:
    """The symmetrised trade-off of a dp-accounting privacy loss distribution."""
    end = losses.get_epsilon_for_delta(1e-12)
    knots = np.linspace(0.0, end if 0 < end < 600 else 600.0, _KNOTS)
    deltas = np.clip(losses.get_delta_for_epsilon(knots), 0, 1)

    def profile(epsilon: Array) -> Array:
        i = np.clip(np.searchsorted(knots, epsilon, "right") - 1, 0, _KNOTS - 2)
        into = np.expm1(np.clip(epsilon, 0, knots[-1]) - knots[i]) / np.expm1(knots[1])
        return np.asarray(deltas[i] + np.clip(into, 0, 1) * (deltas[i + 1] - deltas[i]))

    return from_delta(profile)


def compose(f: TradeOff, g: TradeOff) -> TradeOff:
    """The trade-off of two releases together, f (x) g.

    Gaussians compose exactly, and so does perfect privacy.  Others become privacy loss
    distributions, from their profiles on a grid by "connect the dots", which are convolved; the
    result is symmetrised, and rounded to the safe side.
    """
    if f.mu is not None and g.mu is not None:
        return gaussian(math.hypot(f.mu, g.mu))
    if f.mu == 0 or g.mu == 0:
        return g if f.mu == 0 else f
    grid = max(_end_of(f), _end_of(g)) / _POINTS
    return from_losses(_losses_of(f, grid).compose(_losses_of(g, grid)))


def _end_of(f: TradeOff) -> float:
    """Where the profile has fallen as far as it falls, but for 1e-13."""
    low, high = 0.0, 700.0
    floor = float(f.delta(high)) + 1e-13
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if f.delta(middle) <= floor else (middle, high)
    return high


def _losses_of(f: TradeOff, grid: float) -> Any:
    """The privacy loss distribution of a trade-off, in both orders."""
    from dp_accounting.pld.pld_pmf import create_pmf_pessimistic_connect_dots_fixed_gap as dots
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

    steps = math.ceil(_end_of(f) / grid) + 1
    epsilon: Array = np.arange(steps + 1, dtype=np.float64) * grid
    forward, backward = f.forward(epsilon), f.backward(epsilon)

    def one(ahead: Array, behind: Array) -> Any:
        # H(Q || P) at -epsilon is 1 - e^-epsilon + e^-epsilon H(P || Q) at epsilon.
        negative = -np.expm1(-epsilon) + np.exp(-epsilon) * behind
        deltas = np.clip(np.concatenate([negative[:0:-1], ahead]), 0, 1)
        return dots(grid, -steps, steps, np.minimum.accumulate(deltas))

    return PrivacyLossDistribution(one(forward, backward), one(backward, forward))


def from_rdp(orders: Sequence[float], divergences: Sequence[float]) -> TradeOff:
    """The trade-off that Renyi divergences leave: no test may violate any of the orders.

    At order r with divergence R, the errors a and b of any test obey, in both orders,
    (1 - b)^r a^(1 - r) + b^r (1 - a)^(1 - r) <= e^((r - 1) R).

    Args:
        orders: each above 1.
        divergences: one for each order, >= 0; inf says nothing.

    Raises:
        PrivacyError: the two differ in length, or a value is out of its range.
    """
    if not orders or len(orders) != len(divergences):
        rule = "as many as orders, at least one"
        raise validate.refusal("from_rdp", "divergences", rule, len(divergences), "Pass both.")
    for order, divergence in zip(orders, divergences, strict=True):
        if not (validate.is_number(order) and 1 < order < math.inf):
            raise validate.refusal("from_rdp", "order", "a finite number > 1", order, "Use 2.")
        if not (validate.is_number(divergence) and divergence >= 0):
            raise validate.refusal("from_rdp", "divergence", ">= 0", divergence, "Use 0.5.")
    r = np.asarray(orders, dtype=np.float64)[:, None]
    limit = (r - 1) * np.asarray(divergences, dtype=np.float64)[:, None]
    a = ndtr(np.linspace(-8.0, 8.0, 2001))
    b = _least_errors(a, r, limit)
    tightest = b.argmax(axis=0)
    return from_pairs(_tangents(a, b[tightest, np.arange(len(a))], r[tightest, 0]))


def _terms(a: Array, b: Array, r: Array) -> tuple[Array, Array]:
    """Logarithms of the two terms of the inequality."""
    first = r * np.log1p(-b) + (1 - r) * np.log(a)
    return first, r * np.log(b) + (1 - r) * np.log1p(-a)


def _least_errors(a: Array, r: Array, limit: Array) -> Array:
    """For each order and each a, the smallest b that the inequality allows, from below."""
    low = np.full((len(r), len(a)), 1e-300)
    high = np.broadcast_to(1 - a, low.shape)
    for _ in range(60):
        middle = (low + high) / 2
        fits = np.logaddexp(*_terms(a, middle, r)) <= limit
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    return low


def _tangents(a: Array, b: Array, r: Array) -> list[tuple[float, float]]:
    """The tangents of the boundary, as pairs (epsilon, delta); a flat one is seen from beside."""
    first, second = _terms(a, b, r)
    ratio = np.exp(np.minimum(second - first, 0))  # second < first below the line a + b = 1
    slope = (r - 1) / r * (1 / a - ratio / (1 - a)) / (1 / (1 - b) - ratio / b)
    pairs = []
    for x, y, s in zip(a, b, slope, strict=True):
        if not (math.isfinite(s) and s > 0 and y > 1e-290):
            continue
        if s < 1:
            x, y, s = y, x, 1 / s
        pairs.append((math.log(s), min(1.0, max(0.0, 1 - y - s * x))))
    return pairs or [(0.0, 1.0)]
