"""Trade-off functions from (epsilon, delta): polygons, exact at their corners.

Source: Wasserman, Zhou (2010), arXiv:0811.2501; Dong, Roth, Su (2022), arXiv:1905.02383, Section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from privacy import validate
from privacy.accounting.fdp.tradeoff import Array, TradeOff


def approximate(epsilon: float, delta: float) -> TradeOff:
    """(epsilon, delta)-DP and nothing else; delta may be 0.

    Raises:
        PrivacyError: a value is out of its range.
    """
    return from_pairs([(epsilon, delta)])


def from_pairs(pairs: Sequence[tuple[float, float]]) -> TradeOff:
    """All of these (epsilon, delta) at once: the intersection of their half-planes.

    Raises:
        PrivacyError: there is none, an epsilon is negative or infinite, or a delta not in [0, 1].
    """
    if not pairs:
        raise validate.refusal("from_pairs", "pairs", "at least one", pairs, "Use [(1.0, 1e-5)].")
    for epsilon, delta in pairs:
        validate.epsilon("from_pairs", epsilon)
        if not (validate.is_number(delta) and 0 <= delta <= 1):
            raise validate.refusal("from_pairs", "delta", "in [0, 1]", delta, "Use 1e-5.")
    lines = [(0.0, 0.0)]  # slope and value at 0 of lines below the curve
    for epsilon, delta in pairs:
        if epsilon > 700:  # beyond the floats, and it says nothing that anyone could see
            continue
        lines += [(-math.exp(epsilon), 1 - delta)]
        lines += [(-math.exp(-epsilon), math.exp(-epsilon) * (1 - delta))]
    x, y = _corners(sorted(set(lines)))

    def curve(alpha: Array) -> Array:
        return np.interp(alpha, x, y)

    def profile(epsilon: Array) -> Array:
        # A linear function is largest at a corner.
        slopes = np.exp(np.minimum(epsilon, 709.0))[..., None]
        return np.asarray(np.clip(1 - y - slopes * x, 0, 1).max(axis=-1))

    return TradeOff(curve=curve, forward=profile, backward=profile)


def _corners(lines: Sequence[tuple[float, float]]) -> tuple[Array, Array]:
    """The corners over [0, 1] of the largest of some lines, sorted by slope, the last one flat."""
    hull: list[tuple[float, float]] = []  # lines; each takes over from the one before at `starts`
    starts: list[float] = []
    for slope, value in lines:
        start = 0.0
        while hull:
            before, height = hull[-1]
            start = (height - value) / (slope - before) if slope > before else -math.inf
            if start > starts[-1]:
                break
            hull.pop()
            starts.pop()
            start = 0.0
        if start < 1:
            hull.append((slope, value))
            starts.append(start)
    x = np.array([*starts, 1.0])
    slopes, values = (np.array(part) for part in zip(*hull, strict=True))
    y = np.append(values + slopes * x[:-1], max(0.0, values[-1] + slopes[-1]))
    return x, np.maximum(y, 0)
