"""Test for missing noise in a round: observations of canaries minus what they sent.

What is left of canary j in round t is <c_j, noise> / C, which is N(0, z^2) for a direction c_j of
length 1.  Its squares over z^2 sum to Q_t, with

    E Q_t = M,    Var Q_t = 2 sum_ij <c_i, c_j>^2, nearly 2 M a with a = 1 + (M - 1) / d

so Q_t / a is taken for a chi-square with M / a degrees of freedom, which is d where canaries are
many more than that. True lower tails are lighter: Q_t is a sum of chi-squares of unlike weights,
and more skewed than that.

A round whose Q_t is too small had less noise than was charged: an empty cohort was skipped, or
its noise was left out.  What canaries send into each other's directions, where the run
does not say it, only adds to Q_t: it can hide missing noise, and cause no false alarm.

Shapes: T rounds, M canaries, d numbers of an update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtri, gammainc

from privacy import validate


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """What all rounds together, and each of them, say of the noise.

    Attributes:
        noise_multiplier: as it was seen over all rounds. interval: where it lies.
        claimed: what is to be there.
        overlaps: variance that canaries may have added to each other's.
        rounds: T, of those in which anything was seen.
        silent: rounds with so little noise that chance does not explain it.
        alpha: how often a run with all its noise fails, at most.
        of: what a row is, "rounds" or the "steps" of a mechanism that was watched.
    """

    noise_multiplier: float
    interval: tuple[float, float]
    claimed: float
    overlaps: float
    rounds: int
    silent: tuple[int, ...]
    alpha: float
    of: str = "rounds"

    @property
    def leaks(self) -> bool:
        """Whether there is less noise than claimed, in a round or over all of them."""
        return bool(self.silent) or self.interval[1] < self.claimed

    @property
    def passed(self) -> bool:
        """Whether there is neither less noise nor more."""
        most = math.sqrt(self.claimed**2 + 2 * self.overlaps)  # they are known on average alone
        return not self.leaks and self.interval[0] <= most

    def __str__(self) -> str:
        """One line, for a person."""
        low, high = self.interval
        of = self.of if self.rounds > 1 else self.of[:-1]
        words = (
            f"noise of {self.rounds} {of} z_hat={self.noise_multiplier:.3f} "
            f"[{low:.3f},{high:.3f}]  expected {self.claimed:.3f}   "
        )
        if self.silent:
            more = f" and {len(self.silent) - 1} more" if len(self.silent) > 1 else ""
            return f"{words}FAIL, too little in {self.of[:-1]} {self.silent[0]}{more}"
        return words + ("PASS" if self.passed else "FAIL")


def quiet(
    residuals: ArrayLike,
    *,
    noise_multiplier: float,
    dims: int | None,
    overlaps: float = 0.0,
    alpha: float = 0.001,
) -> Quiet | None:
    """Whether what is left of what canaries saw is noise, in each round; None where nothing was.

    Half of alpha goes to single rounds, by Bonferroni, and a quarter to each end of the interval.

    Args:
        residuals: [T, M], in clip norms; NaN where a canary saw nothing. Of correlated noise,
            white.
        noise_multiplier: that the noise on the sum is to have, over the clip norm.
        dims: d; None where each canary saw noise of its own.
        overlaps: variance that other canaries may have added.
        alpha: how often a run with all its noise may fail.

    Raises:
        PrivacyError: a number is out of its range.

    Guarantees:
        A run with all its noise leaks in at most alpha of all audits, whatever canaries send into
        each other's directions.
        A round without any noise always fails.
    """
    validate.level("quiet", alpha)
    if not (validate.is_number(noise_multiplier) and 0 < noise_multiplier < math.inf):
        raise validate.refusal("quiet", "noise_multiplier", "> 0", noise_multiplier, "Use 1.0.")
    left = np.asarray(residuals, dtype=np.float64) / noise_multiplier
    there = np.isfinite(left)
    counts = there.sum(axis=1).astype(np.float64)
    rows = np.flatnonzero(counts)
    if not len(rows):
        return None
    sums, counts = (np.where(there, left, 0.0)[rows] ** 2).sum(axis=1), counts[rows]
    spread = 1.0 if dims is None else 1 + (counts.max() - 1) / dims
    freedom = counts / spread
    chances = gammainc(freedom / 2, sums / spread / 2)
    silent = rows[chances < alpha / 2 / len(rows)] + 1
    all_of = float(freedom.sum())
    ratio = float(sums.sum() / counts.sum())
    low, high = (
        noise_multiplier * math.sqrt(ratio * all_of / float(chdtri(all_of, tail)))
        for tail in (alpha / 4, 1 - alpha / 4)
    )
    return Quiet(
        noise_multiplier=noise_multiplier * math.sqrt(ratio),
        interval=(low, high),
        claimed=float(noise_multiplier),
        overlaps=overlaps,
        rounds=len(rows),
        silent=tuple(silent.tolist()),
        alpha=alpha,
    )
