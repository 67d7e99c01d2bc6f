"""An estimate from one federated run: how far the model moved towards each canary client.

Each of k canary clients has a direction c of its own, uniform on the unit sphere in d dimensions,
and sends C c whenever it takes part, exactly as long as clipping lets through.  The statistic is
the cosine between c and the whole movement of the model.  For a direction that no client sent, it
has

    density proportional to (1 - x^2)^((d - 3) / 2),    nearly N(0, 1 / d)

and for canaries that took part a Gaussian N(mean, std^2) is fitted.  The estimate is the epsilon
that tells these two Gaussians apart at delta, exactly, in the worse of both orders.

It is an estimate: no confidence comes with it.

Source
    Andrew, Kairouz, Oh, Oprea, McMahan, Suriyakumar (2024), "One-shot empirical privacy estimation
    for federated learning", arXiv:2302.03098.  Only the final model is looked at here.

Shapes: k canaries, d parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import betainc, log_ndtr

from privacy import validate
from privacy.accounting.gaussian import epsilon_of
from privacy.auditing.bounds.clopper_pearson import epsilon_of_rates, rate_upper
from privacy.auditing.bounds.lower_bound import LowerBound
from privacy.validate import Array
from privacy.validate import delta as check_delta

LEAST_CANARIES = 10
LEAST_DIMS = 1000  # below, the null is no Gaussian yet


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one run looks like to its canaries. No confidence comes with it.

    Attributes:
        epsilon, delta: of the two Gaussians; 0 where canaries did not move the model their way.
        mean, std: of the cosines of canaries that took part.
        dims: d.
        canaries: how many were looked at. never_asked: how many were left out, for no round had
            asked them.
    """

    epsilon: float
    delta: float
    mean: float
    std: float
    dims: int
    canaries: int
    never_asked: int = 0

    def __str__(self) -> str:
        """One line, for a person."""
        return f"one-shot cosine estimate eps={self.epsilon:.2f} (no confidence)"


def directions(canaries: int, dims: int, stream: np.random.Generator) -> Array:
    """Uniform on the unit sphere, one for each canary; [k, d].

    Raises:
        PrivacyError: a number is below 1.
    """
    validate.whole("directions", "canaries", canaries, 1)
    validate.whole("directions", "dims", dims, 1)
    drawn = stream.standard_normal((canaries, dims))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def cosines(sent: ArrayLike, moved: ArrayLike) -> Array:
    """The cosine between what each canary sends [k, d] and what the model moved by [d]; [k].

    Raises:
        PrivacyError: the model did not move, a number is not finite, or the shapes do not fit.
    """
    way = validate.finite("cosines", "moved", moved)
    each = np.asarray(sent, dtype=np.float64)
    if each.ndim != 2 or each.shape[1] != len(way):
        raise validate.refusal(
            "cosines", "sent", f"[canaries, {len(way)}]", each.shape, "Flatten in the same order."
        )
    lengths, length = np.linalg.norm(each, axis=1), np.linalg.norm(way)
    if not (length > 0 and np.isfinite(length)):
        rule, remedy = "a movement of finite length > 0", "Audit a run that trained."
        raise validate.refusal("cosines", "moved", rule, float(length), remedy)
    if not ((lengths > 0) & np.isfinite(lengths)).all():
        raise validate.refusal(
            "cosines", "sent", "of finite length > 0", float(lengths.min()), "Use directions()."
        )
    return np.asarray((each @ way) / (lengths * length))


def null_above(threshold: float, dims: int) -> float:
    """P(the cosine of a direction that no client sent exceeds the threshold), exactly.

    Raises:
        PrivacyError: threshold is not in (-1, 1), or dims is below 2.
    """
    validate.whole("null_above", "dims", dims, 2)
    if not (validate.is_number(threshold) and -1 < threshold < 1):
        raise validate.refusal("null_above", "threshold", "in (-1, 1)", threshold, "Use 0.01.")
    shape = (dims - 1) / 2
    return float(betainc(shape, shape, (1 - threshold) / 2))


def estimate(
    observed: ArrayLike, dims: int, *, delta: float, asked: ArrayLike | None = None
) -> Estimate:
    """Estimate epsilon from how well the canaries of one run can be distinguished.

    Args:
        observed: the cosine of each canary [k].
        dims: d.
        delta: in (0, 1).
        asked: whether each canary took part at least once [k]; those that did not say nothing.

    Raises:
        PrivacyError: fewer than 10 canaries took part, all look alike, d is below 1000, a number is
            not finite, or delta is outside (0, 1).

    Guarantees:
        Canaries that the model moved away from give 0.
        Between Gaussians of one width it is the closed form of mu sqrt(d).
    """
    check_delta("estimate", delta)
    validate.whole("estimate", "dims", dims, LEAST_DIMS)
    found, never = _who_was_asked(observed, asked)
    mean, std = float(found.mean()), float(found.std(ddof=1))
    if not std > 0:
        rule, remedy = "of different values", "Give every canary a direction of its own."
        raise validate.refusal("estimate", "observed", rule, mean, remedy)
    epsilon = 0.0
    if mean > 0:
        epsilon = gaussian_epsilon(dims**-0.5, mean, std, delta)
    return Estimate(
        epsilon=epsilon,
        delta=delta,
        mean=mean,
        std=std,
        dims=dims,
        canaries=len(found),
        never_asked=never,
    )


def lower(
    observed: ArrayLike,
    dims: int,
    threshold: float,
    *,
    delta: float,
    alpha: float = 0.05,
    asked: ArrayLike | None = None,
) -> LowerBound:
    """A bound instead: canaries at or below a threshold are missed, and the null is exact.

    The share of missed canaries is bounded by Clopper and Pearson, who are never too low (the paper
    takes Jeffreys' limits, which are so sometimes), at the whole of alpha.

    Args:
        observed: the cosine of each canary [k].
        dims: d, at least 2.
        threshold: fixed before the cosines were seen.
        delta: in [0, 1).
        alpha: how often the bound may be wrong.
        asked: whether each canary took part at least once [k].

    Raises:
        PrivacyError: as `estimate`, or threshold or alpha is out of its range.

    Guarantees:
        Where canaries do not influence each other, it exceeds the truth in at most alpha of all
        audits.
    """
    validate.failure("lower", delta)
    validate.level("lower", alpha)
    accused = null_above(threshold, dims)
    found, _ = _who_was_asked(observed, asked)
    missed = rate_upper(int((found <= threshold).sum()), len(found), alpha)
    best = rate_upper(0, len(found), alpha)
    return LowerBound(
        epsilon=float(epsilon_of_rates(missed, accused, delta)),
        delta=delta,
        alpha=alpha,
        method=f"one-shot cosines, k={len(found)}",
        hypothesis="as if canaries did not influence each other",
        ceiling=float(epsilon_of_rates(best, accused, delta)),
    )


def gaussian_epsilon(null_std: float, mean: float, std: float, delta: float) -> float:
    """The epsilon at delta between N(0, null_std^2) and N(mean, std^2), in the worse order.

    Raises:
        PrivacyError: a standard deviation is not above 0, or delta is outside (0, 1).
    """
    check_delta("gaussian_epsilon", delta)
    for name, value in (("null_std", null_std), ("std", std)):
        if not (validate.is_number(value) and 0 < value < math.inf):
            raise validate.refusal("gaussian_epsilon", name, "> 0", value, "Use d ** -0.5.")
    validate.finite("gaussian_epsilon", "mean", [mean])
    if math.isclose(std, null_std, rel_tol=1e-9):
        return epsilon_of(delta, abs(mean) / null_std)
    null, seen = (0.0, null_std), (mean, std)

    def excess(epsilon: float) -> float:
        return max(_delta(null, seen, epsilon), _delta(seen, null, epsilon)) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, high / 2 if high > 1 else 0.0, high, xtol=1e-12, rtol=1e-14))


def _delta(p: tuple[float, float], q: tuple[float, float], epsilon: float) -> float:
    """The hockey stick max_S P(S) - e^epsilon Q(S) of Gaussians (mean, std) of unlike width.

    In units of p the log ratio of the densities less epsilon is a y^2 + b y + c: the best S is
    between its roots where a < 0, and outside of them where a > 0.
    """
    ratio, shift = p[1] / q[1], (p[0] - q[0]) / q[1]  # a point y of p is ratio y + shift of q
    a, b = (ratio**2 - 1) / 2, ratio * shift
    c = shift**2 / 2 - math.log(ratio) - epsilon
    square = b * b - 4 * a * c
    if square <= 0:  # p is nowhere the larger one: it cannot be everywhere
        return 0.0
    stable = -(b + math.copysign(math.sqrt(square), b)) / 2  # nothing cancels
    low, high = sorted((stable / a, c / stable))
    parts = [(low, high)] if a < 0 else [(-math.inf, low), (high, math.inf)]
    found = 0.0
    for left, right in parts:
        other = _log_between(ratio * left + shift, ratio * right + shift)
        found += math.exp(_log_between(left, right)) - math.exp(min(epsilon + other, 700.0))
    return found


def _log_between(left: float, right: float) -> float:
    """Ln(Phi(right) - Phi(left)), in whichever tail it is exact."""
    if left > 0:
        left, right = -right, -left
    upper, below = float(log_ndtr(right)), float(log_ndtr(left))
    if below >= upper:
        return -math.inf
    return upper + math.log(-math.expm1(below - upper))


def _who_was_asked(observed: ArrayLike, asked: ArrayLike | None) -> tuple[Array, int]:
    every = np.asarray(observed, dtype=np.float64)
    taken = np.ones(len(every), dtype=bool) if asked is None else np.asarray(asked, dtype=bool)
    validate.same_length("cosines", "asked", taken, every)
    found = validate.finite("cosines", "observed", every[taken], least=LEAST_CANARIES)
    return found, len(every) - len(found)
