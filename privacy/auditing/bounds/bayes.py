"""What counts make one believe of epsilon: a posterior, whose interval is no bound.

Under Jeffreys' prior the two error rates are independent,

    FNR ~ Beta(FN + 1/2, TP + 1/2),     FPR ~ Beta(FP + 1/2, TN + 1/2),

and a mechanism leaks at most epsilon where the pair (x, y) = (FNR, FPR) lies between

    lo(x) = max(0, 1 - delta - e^epsilon x, e^-epsilon (1 - delta - x))    and    1 - lo(1 - x)

so that P(epsilon <= e) is one integral over x, of F_FPR(1 - lo(1 - x)) - F_FPR(lo(x)).  It is taken
over s with x the Phi(s)-quantile of FNR, where nothing is steep: it is cut where lo has corners,
and where either line meets a quantile of FPR.

It is a credible interval: it leaves 0 even for an attack that tosses coins, and its upper end
bounds nothing.

Source
    Zanella-Beguelin et al. (2023), "Bayesian estimation of differential privacy",
    arXiv:2206.05199; there the integral is over both rates.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, ndtr, ndtri

from privacy import validate
from privacy.auditing.bounds.clopper_pearson import Counts
from privacy.validate import Array

_FAR = 8.5  # 1 - Phi(8.5) is 1e-17
_STEPS = np.arange(-_FAR, _FAR + 0.1, 0.5)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_MOST = 700.0  # e^700 is nearly the largest float


def posterior_cdf(counts: Counts, epsilon: float, delta: float) -> float:
    """P(the mechanism leaks at most epsilon), given the counts.

    Raises:
        PrivacyError: epsilon is negative or above 700, or delta outside [0, 1).

    Guarantees:
        It rises with epsilon.
    """
    validate.failure("posterior_cdf", delta)
    if not (validate.is_number(epsilon) and 0 <= epsilon <= _MOST):
        raise validate.refusal("posterior_cdf", "epsilon", "in [0, 700]", epsilon, "Use 1.0.")
    return _cdf(counts, epsilon, delta)


def credible_interval(
    counts: Counts, *, delta: float, credibility: float = 0.95
) -> tuple[float, float]:
    """Where epsilon lies with this probability, half of the rest below and half above.

    Raises:
        PrivacyError: delta is outside [0, 1), or credibility outside (0, 1).

    Guarantees:
        An end below which nothing is left to believe is 0.
    """
    validate.level("credible_interval", credibility)
    rest = (1 - credibility) / 2
    return quantile(counts, rest, delta=delta), quantile(counts, 1 - rest, delta=delta)


def quantile(counts: Counts, probability: float, *, delta: float) -> float:
    """The epsilon that is not exceeded with this probability; 0.5 gives the median.

    Raises:
        PrivacyError: delta is outside [0, 1), or probability outside (0, 1).
    """
    validate.failure("quantile", delta)
    validate.level("quantile", probability)

    def excess(epsilon: float) -> float:
        return _cdf(counts, epsilon, delta) - probability

    if excess(0.0) >= 0:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        if high >= _MOST:
            return math.inf
        high = min(2 * high, _MOST)
    return float(brentq(excess, 0.0, high, xtol=1e-11, rtol=1e-13))


def _cdf(counts: Counts, epsilon: float, delta: float) -> float:
    fnr = counts.false_negatives + 0.5, counts.true_positives + 0.5
    fpr = counts.false_positives + 0.5, counts.true_negatives + 0.5
    grown, corner = math.exp(epsilon), (1 - delta) / (1 + math.exp(epsilon))

    def lo(x: Array, rest: Array) -> Array:  # rest = 1 - x, which x may be too near to 1 to say
        return np.maximum(np.maximum(1 - delta - grown * x, (rest - delta) / grown), 0)

    # lo undoes itself: it meets the height y at x = lo(y), and the upper line at 1 - lo(1 - y).
    heights = betaincinv(*fpr, ndtr(_STEPS))
    corners = [delta, 1 - delta, corner, 1 - corner]
    cuts = np.concatenate([lo(heights, 1 - heights), 1 - lo(1 - heights, heights), corners])
    found = ndtri(betainc(*fnr, np.clip(cuts, 0, 1)))
    ends = np.unique(np.clip(np.concatenate([found, _STEPS]), -_FAR, _FAR))
    half = np.diff(ends)[:, None] / 2
    s = ends[:-1, None] + half * (1 + _NODES)
    x, rest = betaincinv(*fnr, ndtr(s)), betaincinv(*fnr[::-1], ndtr(-s))
    inside = 1 - betainc(*fpr[::-1], lo(rest, x)) - betainc(*fpr, lo(x, rest))
    density = np.exp(-(s**2) / 2) / math.sqrt(2 * math.pi)
    return float(min(1.0, max(0.0, (half * _WEIGHTS * density * inside).sum())))
