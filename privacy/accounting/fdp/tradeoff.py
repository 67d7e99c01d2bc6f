"""Trade-off functions as values: the least type-II error of any test, for each type-I error.

A trade-off function f = T(P, Q) and its two privacy profiles say the same:

    forward   delta(epsilon) = max_a 1 - f(a) - e^epsilon a      = H(Q || P)
    backward  the same of f's inverse                            = H(P || Q)
    f(a) = max over epsilon >= 0 of  1 - forward - e^epsilon a,  e^-epsilon (1 - backward - a),  0

Both maxima are of concave functions (of a, and of e^epsilon), so a golden-section search finds
them to rounding, and every operation below is exact on whichever side it is simple on.

Source
    Dong, Roth, Su (2022), "Gaussian differential privacy", arXiv:1905.02383: Sections 2 (duality,
    groups), 3 (composition) and 4 (subsampling).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from privacy import validate
from privacy.accounting import gaussian as closed

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
_END = 745.0  # e^-745 is the smallest float


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """A trade-off function.

    Attributes:
        curve: f itself, over arrays of alpha in [0, 1].
        forward: delta over arrays of epsilon >= 0, of Q against P.
        backward: the same of P against Q; the same function when f is symmetric.
        mu: where f is Gaussian, its parameter.
    """

    curve: Function
    forward: Function
    backward: Function
    mu: float | None = None

    def __call__(self, alpha: ArrayLike) -> Array:
        """f(alpha), the least type-II error of a test with type-I error alpha.

        Raises:
            PrivacyError: an alpha is outside [0, 1].
        """
        a = np.asarray(alpha, dtype=np.float64)
        if not ((a >= 0) & (a <= 1)).all():
            raise validate.refusal("TradeOff", "alpha", "in [0, 1]", alpha, "Use 0.01.")
        return np.clip(self.curve(a), 0, 1 - a)

    def inverse(self) -> TradeOff:
        """The trade-off with the two distributions in the other order."""
        if self.forward is self.backward:
            return self
        return _from_profiles(self.backward, self.forward)

    def delta(self, epsilon: ArrayLike) -> Array:
        """The smallest delta at each epsilon >= 0, in both orders; never outside [0, 1].

        Raises:
            PrivacyError: an epsilon is negative or no number.
        """
        e = np.asarray(epsilon, dtype=np.float64)
        if not (e >= 0).all():
            raise validate.refusal("TradeOff", "epsilon", ">= 0", epsilon, "Use 1.0.")
        return np.clip(np.maximum(self.forward(e), self.backward(e)), 0, 1)

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at this delta, rounded up; inf where there is none.

        Raises:
            PrivacyError: delta is outside (0, 1).
        """
        validate.delta("TradeOff", delta)
        if self.mu is not None:
            return closed.epsilon_of(delta, self.mu)
        if self.delta(0.0) <= delta:
            return 0.0
        low, high = 0.0, _END
        if self.delta(high) > delta:
            return math.inf
        for _ in range(64):
            middle = (low + high) / 2
            low, high = (low, middle) if self.delta(middle) <= delta else (middle, high)
        return high

    @property
    def tv(self) -> float:
        """Total variation, the most that an attack's true exceeds its false positive rate."""
        return float(self.delta(0.0))

    @property
    def kappa(self) -> float:
        """Largest distance of the curve from 1 - alpha: tv / sqrt(2)."""
        return self.tv / math.sqrt(2)


def identity() -> TradeOff:
    """Perfect privacy: 1 - alpha."""
    return gaussian(0.0)


def gaussian(mu: float) -> TradeOff:
    """mu-GDP: telling N(0, 1) from N(mu, 1).

    Raises:
        PrivacyError: mu is negative or no number.
    """
    if not (validate.is_number(mu) and mu >= 0):
        raise validate.refusal("gaussian", "mu", ">= 0", mu, "Use sensitivity / noise_std.")

    def curve(alpha: Array) -> Array:
        if math.isinf(mu):
            return np.zeros_like(alpha)
        return np.asarray(ndtr(-ndtri(alpha) - mu)) if mu else 1 - alpha

    def profile(epsilon: Array) -> Array:
        if mu == 0 or math.isinf(mu):
            return np.full_like(epsilon, float(mu > 0))
        return np.exp(closed.log_profile(epsilon, mu))

    return TradeOff(curve=curve, forward=profile, backward=profile, mu=mu)


def from_delta(forward: Function, backward: Function | None = None) -> TradeOff:
    """The trade-off of a privacy profile, or of two where the orders differ.

    Args:
        forward: delta over arrays of epsilon >= 0, non-increasing and convex in e^epsilon.
        backward: for the other order; without one the trade-off is symmetric.
    """
    return _from_profiles(forward, forward if backward is None else backward)


def mixed(f: TradeOff, sampling_prob: float) -> TradeOff:
    """f_p = p f + (1 - p) Id: one order of Poisson subsampling; its inverse is the other.

    Raises:
        PrivacyError: sampling_prob is outside [0, 1].
    """
    validate.probability("mixed", "sampling_prob", sampling_prob)
    p = sampling_prob
    if p == 0:
        return identity()
    if p == 1:
        return f

    def curve(alpha: Array) -> Array:
        return p * f.curve(alpha) + (1 - p) * (1 - alpha)

    def forward(epsilon: Array) -> Array:  # H(p Q + (1 - p) P || P)
        grown = epsilon - math.log(p) + np.log1p((p - 1) * np.exp(-epsilon))
        return p * f.forward(np.clip(grown, 0, _END))

    def backward(epsilon: Array) -> Array:  # H(P || p Q + (1 - p) P)
        part = -np.expm1(np.minimum(epsilon + math.log1p(-p), 1))  # what of P is left to tell
        with np.errstate(divide="ignore", invalid="ignore"):
            grown = np.where(part > 0, epsilon + math.log(p) - np.log(part), 0)
        return np.where(part > 0, part * f.backward(np.clip(grown, 0, _END)), 0)

    return TradeOff(curve=curve, forward=forward, backward=backward)


def symmetrised(f: TradeOff) -> TradeOff:
    """The lower convex hull of f and its inverse: what holds in both orders."""
    if f.forward is f.backward:
        return f
    return from_delta(lambda epsilon: np.maximum(f.forward(epsilon), f.backward(epsilon)))


def subsampled(f: TradeOff, sampling_prob: float) -> TradeOff:
    """C_p(f): one step on a Poisson sample, in both orders.

    To compose many steps, compose `mixed` ones, which is tighter.

    Raises:
        PrivacyError: sampling_prob is outside [0, 1].
    """
    return symmetrised(mixed(f, sampling_prob))


def group(f: TradeOff, size: int) -> TradeOff:
    """1 - (1 - f) o ... o (1 - f): what f means for `size` units that change together.

    Raises:
        PrivacyError: size is no whole number of at least 1.
    """
    validate.whole("group", "size", size, 1)
    if size == 1:
        return f
    if f.mu is not None:
        return gaussian(size * f.mu)
    f = symmetrised(f)

    def curve(alpha: Array) -> Array:
        power = alpha
        for _ in range(size):
            power = 1 - f(power)
        return 1 - power

    def profile(epsilon: Array) -> Array:
        slope = np.exp(np.minimum(epsilon, 709.0))
        low, high = np.zeros_like(slope), np.ones_like(slope)
        return _peak(lambda a: 1 - curve(a) - slope * a, low, high)

    return TradeOff(curve=curve, forward=profile, backward=profile)


def _from_profiles(forward: Function, backward: Function) -> TradeOff:
    def curve(alpha: Array) -> Array:
        log_a = np.log(np.maximum(alpha, 5e-324))
        steep = _peak(lambda e: 1 - forward(e) - np.exp(e + log_a), np.zeros_like(alpha), -log_a)
        end = np.full_like(alpha, _END)
        flat = _peak(lambda e: np.exp(-e) * (1 - backward(e) - alpha), np.zeros_like(alpha), end)
        return np.maximum(steep, flat)

    return TradeOff(curve=curve, forward=forward, backward=backward)


def _peak(value: Function, low: Array, high: Array) -> Array:
    """The maximum over [low, high] of functions with one peak, by golden sections.

    What is flat to rounding before a peak is climbed over; nothing here is flat after one.
    """
    golden = (math.sqrt(5) - 1) / 2
    best = np.maximum(value(low), value(high))
    for _ in range(90):
        left, right = high - golden * (high - low), low + golden * (high - low)
        at_left, at_right = value(left), value(right)
        best = np.maximum(best, np.maximum(at_left, at_right))
        rises = at_left <= at_right
        low, high = np.where(rises, left, low), np.where(rises, high, right)
    return best
