"""Is the noise what it is said to be? A canary in single steps, half of them with it, half without.

The canary is a contribution exactly as long as the clip norm C, orthogonal to all the others.  What
is observed is o = <canary, noisy sum> / C^2, which is N(1 + s, z^2) with it and N(s, z^2) without:
standardised, its shift is the mu = 1 / z that an accountant takes a step for.  A wrong scale of the
noise, a wrong clip norm, a mean for a sum, a tensor without noise or a contribution counted twice
all show.

What it audits is the step, not how units came into it.

With correlated noise a step alone shows little: C y = C x + Z for a strategy C and white Z, so the
releases y are looked at along w = the sum of C's columns at the times at which the canary takes
part: the shift is |w|, which at the worst times is the sensitivity of C.

Source
    Nasr, Hayes, Steinke, Balle, Tramer, Jagielski, Carlini, Terzis (2023), "Tight auditing of
    differentially private machine learning", arXiv:2302.07956; for C, privacy/matrix_factorization.

Shapes: a observations with the canary, b without; n rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import nctdtrinc

from privacy import validate
from privacy.matrix_factorization import Observed, Sensitivity, sensitivity, toeplitz
from privacy.validate import Array

_FAR = 1000.0  # beyond, the interval is proportional to t, and solving for it takes forever


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What a canary saw of the noise, beside what is claimed.

    Attributes:
        mu: the canary's shift in units of the noise. standard_error: of mu.
        mu_interval: where mu lies, with confidence 1 - alpha.
        noise_multiplier: 1 / mu, as far as there is a shift. interval: where it lies.
        claimed: the noise multiplier that is to be there.
        observations: a and b.
        alpha: how often the interval may miss, half to each side.
    """

    mu: float
    standard_error: float
    mu_interval: tuple[float, float]
    claimed: float
    observations: tuple[int, int]
    alpha: float

    @property
    def noise_multiplier(self) -> float:
        """1 / mu: inf where the canary is not seen at all."""
        return _inverse(self.mu)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the noise multiplier lies, with confidence 1 - alpha."""
        low, high = self.mu_interval
        return _inverse(high), _inverse(low)

    @property
    def passed(self) -> bool:
        """Whether the claimed multiplier is in the interval: neither less noise nor more."""
        low, high = self.mu_interval
        return low <= 1 / self.claimed <= high

    @property
    def leaks(self) -> bool:
        """Whether there is less noise than claimed, which is a fault and not a matter of taste."""
        return self.mu_interval[0] > 1 / self.claimed

    def __str__(self) -> str:
        """One line, for a person."""
        low, high = self.interval
        return (
            f"gradient-canary z_hat={self.noise_multiplier:.3f} [{low:.3f},{high:.3f}]  "
            f"expected {self.claimed:.3f}   {'PASS' if self.passed else 'FAIL'}"
        )


def wiring(
    inside: ArrayLike, outside: ArrayLike, *, noise_multiplier: float, alpha: float = 0.05
) -> Wiring:
    """What independent observations with and without the canary say of the noise multiplier.

    mu is the difference of means over the pooled standard deviation, whose standard error is
    sqrt(1/a + 1/b + mu^2 / (2 (a + b))); the interval is exact, by the noncentral t distribution.

    Args:
        inside: o with the canary [a].
        outside: the same without it [b], in the same unit.
        noise_multiplier: that is claimed: noise_std / the largest shift of one unit.
        alpha: how often the interval may miss, half to each side.

    Raises:
        PrivacyError: fewer than two observations of a kind, one that is not finite, no noise at
            all, or a number out of its range.

    Guarantees:
        Where the noise is Gaussian, the interval misses the truth in alpha of all audits.
        Two thirds and three halves of the noise fail.
    """
    validate.level("wiring", alpha)
    if not (validate.is_number(noise_multiplier) and 0 < noise_multiplier < math.inf):
        raise validate.refusal("wiring", "noise_multiplier", "> 0", noise_multiplier, "Use 1.0.")
    seen = validate.finite("wiring", "inside", inside, least=2)
    bare = validate.finite("wiring", "outside", outside, least=2)
    a, b = len(seen), len(bare)
    freedom = a + b - 2
    pooled = math.sqrt(((a - 1) * seen.var(ddof=1) + (b - 1) * bare.var(ddof=1)) / freedom)
    if not pooled > 0:
        rule, remedy = "noisy", "A release without noise needs no audit: it hides nothing."
        raise validate.refusal("wiring", "observations", rule, float(seen[0]), remedy)
    mu = float(seen.mean() - bare.mean()) / pooled
    scale = math.sqrt(a * b / (a + b))  # scale * mu is noncentral t around scale * the true mu
    t = scale * mu
    unit = max(1.0, abs(t) / _FAR)
    low, high = (unit * float(nctdtrinc(freedom, p, t / unit)) for p in (1 - alpha / 2, alpha / 2))
    return Wiring(
        mu=mu,
        standard_error=math.sqrt(1 / a + 1 / b + mu**2 / (2 * (a + b))),
        mu_interval=(low / scale, high / scale),
        claimed=float(noise_multiplier),
        observations=(a, b),
        alpha=alpha,
    )


def in_time(strategy: Array, releases: ArrayLike, times: Sequence[int]) -> Array:
    """Releases under correlated noise, seen along the direction in which the canary shows most.

    Args:
        strategy: C, as its first column [n] or whole [n, n], at the rounds that were observed.
        releases: <canary, release t> / C^2 for each trial and round, [trials, n].
        times: the rounds at which the canary takes part, counted from 0.

    Returns:
        [trials], whose shift in units of the noise is `shift(strategy, times)` over the noise
        multiplier: observations for `wiring`, with a claimed multiplier of z / shift.

    Raises:
        PrivacyError: the releases are not finite, or the shapes or times do not fit.
    """
    seen = np.asarray(releases, dtype=np.float64)
    if seen.ndim != 2 or seen.shape[1] != len(strategy):
        rule, remedy = f"[trials, {len(strategy)}]", "Observe every round of the strategy."
        raise validate.refusal("in_time", "releases", rule, seen.shape, remedy)
    matrix = toeplitz.to_matrix(strategy) if strategy.ndim == 1 else strategy
    along = _direction(matrix, times)
    white = seen @ matrix.T
    return validate.finite("in_time", "releases", white @ (along / np.linalg.norm(along)))


def shift(strategy: Array, times: Sequence[int]) -> Sensitivity:
    """How far a canary that takes part at these times moves C x, in units of the clip norm.

    Where it is `exact`, it is all that a unit with these times can do: the columns of C point into
    the same half space, and contributions that are all alike are the worst.

    Raises:
        PrivacyError: a time repeats or lies outside the rounds.
    """
    matrix = toeplitz.to_matrix(strategy) if strategy.ndim == 1 else strategy
    reached = float(np.linalg.norm(_direction(matrix, times)))
    largest = sensitivity(strategy, Observed((tuple(times),)))
    return Sensitivity(reached, exact=largest.exact)


def _direction(matrix: Array, times: Sequence[int]) -> Array:
    if not times or not all(0 <= time < len(matrix) for time in times):
        rule, remedy = f"at least one, each in [0, {len(matrix)})", "Count rounds from 0."
        raise validate.refusal("in_time", "times", rule, list(times), remedy)
    return np.asarray(matrix[:, list(times)].sum(axis=1))


def _inverse(mu: float) -> float:
    return 1 / mu if mu > 0 else math.inf
