"""The Gaussian mechanism in closed form: no library, no grid.

Notation
    mu    sensitivity / noise_std; the mechanism is exactly mu-GDP
    Phi   the normal distribution function

Source
    Balle, Wang (2018), arXiv:1805.06530, Theorem 8, for delta(epsilon);
    Dong, Roth, Su (2022), arXiv:1905.02383, Corollary 2.13, for mu-GDP.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import erf, erfcx, log_ndtr

from privacy import validate


def log_profile(epsilon: ArrayLike, mu: float) -> NDArray[np.float64]:
    """Ln delta(epsilon) of mu-GDP, for any array of epsilon and 0 < mu < inf.

    delta = Phi(a) - e^epsilon Phi(b) with a = mu/2 - epsilon/mu, b = -mu/2 - epsilon/mu.  As
    phi(a) = e^epsilon phi(b), it is phi(a) times a difference of Mills' ratios, which neither
    overflows nor cancels for large epsilon.
    """
    e = np.asarray(epsilon, dtype=np.float64)
    a, b = mu / 2 - e / mu, -mu / 2 - e / mu
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratios = erfcx(-a / math.sqrt(2)) - erfcx(-b / math.sqrt(2))
        far = -(a**2) / 2 + np.log(ratios / 2)
        near = log_ndtr(a) + np.log1p(-np.exp(np.minimum(e + log_ndtr(b) - log_ndtr(a), 0)))
    return np.asarray(np.where(a > 0, near, far))


def delta_of(epsilon: float, mu: float) -> float:
    """The smallest delta for which mu-GDP is (epsilon, delta)-DP.

    Raises:
        PrivacyError: epsilon or mu is negative or no number.
    """
    validate.epsilon("delta_of", epsilon)
    _check_mu("delta_of", mu)
    if mu == 0:
        return 0.0
    return 1.0 if math.isinf(mu) else float(np.exp(log_profile(epsilon, mu)))


def epsilon_of(delta: float, mu: float) -> float:
    """The smallest epsilon for which mu-GDP is (epsilon, delta)-DP, rounded up.

    Raises:
        PrivacyError: delta is outside (0, 1), or mu is negative or no number.

    Guarantees:
        delta_of(epsilon_of(delta, mu), mu) is at most delta.
    """
    validate.delta("epsilon_of", delta)
    _check_mu("epsilon_of", mu)
    if tv_of(mu) <= delta:
        return 0.0
    if math.isinf(mu):
        return math.inf
    target = math.log(delta)

    def excess(epsilon: float) -> float:
        return float(log_profile(epsilon, mu)) - target

    # (mu^2/2)-zCDP gives an epsilon that surely is enough: Bun, Steinke (2016), Proposition 1.3.
    enough = mu * mu / 2 + mu * math.sqrt(-2 * target)
    if mu > 1e6:  # it is tight there, and the profile is lost in rounding
        return enough
    return _upwards(excess, brentq(excess, 0.0, enough, xtol=1e-15, rtol=1e-14, maxiter=500))


def mu_of(epsilon: float, delta: float) -> float:
    """The largest mu for which mu-GDP is (epsilon, delta)-DP, rounded down.

    Raises:
        PrivacyError: epsilon is negative or no number, or delta is outside (0, 1).

    Guarantees:
        delta_of(epsilon, mu_of(epsilon, delta)) is at most delta.
    """
    return 1 / sigma_of(epsilon, delta)


def sigma_of(epsilon: float, delta: float) -> float:
    """The smallest noise_std / sensitivity that is (epsilon, delta)-DP, rounded up.

    Raises:
        PrivacyError: epsilon is negative or no number, or delta is outside (0, 1).

    Guarantees:
        delta_of(epsilon, 1 / sigma_of(epsilon, delta)) is at most delta.
    """
    validate.epsilon("sigma_of", epsilon)
    validate.delta("sigma_of", delta)
    target = math.log(delta)

    def excess(sigma: float) -> float:
        return float(log_profile(epsilon, 1 / sigma)) - target

    low = high = 1.0
    while excess(low) <= 0:
        low /= 2
    while excess(high) > 0:
        high *= 2
    return _upwards(excess, brentq(excess, low, high, xtol=1e-300, rtol=1e-14, maxiter=500))


def tv_of(mu: float) -> float:
    """Total variation distance of mu-GDP: 2 Phi(mu/2) - 1, the most an attack gains."""
    _check_mu("tv_of", mu)
    return float(erf(mu / math.sqrt(8)))


def _check_mu(who: str, mu: float) -> None:
    if not (validate.is_number(mu) and mu >= 0):
        raise validate.refusal(who, "mu", ">= 0", mu, "Use sensitivity / noise_std.")


def _upwards(excess: object, root: float) -> float:
    """The first value from a root upwards where nothing is exceeded: roots are rounded."""
    assert callable(excess)
    step = 1e-15
    while excess(root) > 0:
        root, step = root * (1 + step), step * 2
    return root
