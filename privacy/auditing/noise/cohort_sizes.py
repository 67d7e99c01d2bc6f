"""Do the sizes of a run's cohorts fit the sampler that its ledger names?

Sizes are all that is looked at: a run that breaks their law did not sample as it claims, and one
that keeps it may still not.  Poisson cohorts are binomial in size, independently from round to
round; ones that are all alike are as wrong as ones that are too wild.

Notation  N population, q sampling probability, T rounds
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import bdtr, bdtrc, chdtr, chdtrc, ndtr

from privacy import validate
from privacy.auditing.bounds import binomial
from privacy.validate import Array

_SHORT, _DRAWS = 50, 20_000  # a run of so few rounds is compared with so many drawn ones


@dataclass(frozen=True, kw_only=True)
class SamplerCheck:
    """What the sizes of a run's cohorts say of its sampler.

    Attributes:
        claimed: the sampler, in words.
        rounds: T. empty: rounds in which no client was asked.
        p_value: how likely sizes as strange as these are, if the claim is true.
        level: below which the claim is not believed.
        reason: what is wrong; empty where nothing is.
    """

    claimed: str
    rounds: int
    empty: int
    p_value: float
    level: float
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the sizes are those of the claimed sampler, as far as one can see."""
        return not self.reason

    def __str__(self) -> str:
        """One line, for a person."""
        found = "OK" if self.passed else f"MISMATCH, {self.reason}"
        return f"{self.claimed} {found} (cohort sizes p={self.p_value:.2g}), {self.empty} empty"


def check_sizes(
    sampler: Mapping[str, Any], sizes: Sequence[int], population: int
) -> SamplerCheck | None:
    """Whether sizes are those of a ledger entry's sampler; None where nothing is known of them."""
    if not len(sizes) or sampler["kind"] not in _CHECKS:
        return None
    return _CHECKS[sampler["kind"]](sampler, sizes, population)


def poisson_sizes(
    sizes: Sequence[int],
    *,
    population: int,
    sampling_prob: float,
    most: int | None = None,
    level: float = 1e-3,
) -> SamplerCheck:
    """Whether sizes are binomial: their sum, by a binomial test, and how much they vary.

    The variation is sum (size - mean)^2 over the variance of one size.  Its law is found by drawing
    runs where there are few rounds, and is a scaled chi-square one where there are many.

    Args:
        sizes: of every round's cohort [T], as it was asked, whichever clients replied.
        population: N; of one group, where groups take turns.
        sampling_prob: q; of a client in a round of its group.
        most: the largest cohort there may be, where larger ones are cut.
        level: below which the claim is not believed; small, as it is asked in every audit.

    Raises:
        PrivacyError: a number is out of its range, or there is no round.

    Guarantees:
        Binomial sizes fail with probability `level`, or little more.
        Sizes that are all alike fail, unless they have to be.
    """
    found = _counts("poisson_sizes", sizes, population)
    validate.level("poisson_sizes", level)
    if not (validate.is_number(sampling_prob) and 0 <= sampling_prob <= 1):
        raise validate.refusal(
            "poisson_sizes", "sampling_prob", "in [0, 1]", sampling_prob, "Use cohort / population."
        )
    cap = population if most is None else most
    validate.whole("poisson_sizes", "most", cap)
    p_value, reason = _strangest(found, _Law(population, sampling_prob, cap))
    return SamplerCheck(
        claimed=f"poisson(q={sampling_prob:g}, N={population})",
        rounds=len(found),
        empty=int((found == 0).sum()),
        p_value=p_value,
        level=level,
        reason=reason if p_value < level else "",
    )


def fixed_sizes(sizes: Sequence[int], *, cohort: int) -> SamplerCheck:
    """Whether every cohort has the size that was claimed.

    Raises:
        PrivacyError: a number is out of its range, or there is no round.

    Guarantees:
        One cohort of another size fails.
    """
    validate.whole("fixed_sizes", "cohort", cohort, 1)
    found = _counts("fixed_sizes", sizes, None)
    other = found[found != cohort]
    reason = f"a cohort of {int(other[0])}" if len(other) else ""
    return SamplerCheck(
        claimed=f"fixed(m={cohort})",
        rounds=len(found),
        empty=int((found == 0).sum()),
        p_value=float(not len(other)),
        level=0.5,
        reason=reason,
    )


_CHECKS: dict[str, Callable[[Mapping[str, Any], Sequence[int], int], SamplerCheck]] = {
    "fixed": lambda sampler, sizes, population: fixed_sizes(sizes, cohort=int(sampler["cohort"])),
    "poisson": lambda sampler, sizes, population: poisson_sizes(
        sizes,
        population=population,
        sampling_prob=float(sampler["sampling_prob"]),
        most=sampler.get("most"),
    ),
}


def _counts(who: str, sizes: Sequence[int], population: int | None) -> Array:
    if not len(sizes):
        raise validate.refusal(who, "sizes", "of at least one round", 0, "Audit a run that ran.")
    for size in sizes:
        validate.whole(who, "size", size)
        if population is not None and size > population:
            raise validate.refusal(
                who, "size", f"at most the population, {population}", size, "Count clients once."
            )
    return np.asarray(sizes, dtype=np.float64)


class _Law(NamedTuple):
    """Of one size: min(binomial, cap)."""

    population: int
    sampling_prob: float
    cap: int

    def moments(self) -> tuple[float, float, float]:
        """Mean, variance and excess kurtosis."""
        mean = self.population * self.sampling_prob
        std = math.sqrt(mean * (1 - self.sampling_prob))
        low = max(0, int(mean - 12 * std - 12))
        high = min(self.population, int(mean + 12 * std + 60))  # beyond, there is less than 1e-20
        k = np.arange(low, high + 1, dtype=np.float64)
        weights = binomial.pmf(k, self.population, self.sampling_prob)
        sizes = np.minimum(k, self.cap)
        first = float(weights @ sizes)
        second, fourth = (float(weights @ (sizes - first) ** power) for power in (2, 4))
        return first, second, fourth / second**2 - 3 if second > 0 else 0.0

    def runs(self, rounds: int) -> Array:
        """Sizes in many runs, always the same ones: an audit gives the same answer twice."""
        stream = np.random.default_rng(0)
        sizes = stream.binomial(self.population, self.sampling_prob, size=(_DRAWS, rounds))
        return np.minimum(sizes, self.cap).astype(np.float64)


def _strangest(found: Array, law: _Law) -> tuple[float, str]:
    """The p-value of sizes, and what is strangest about them."""
    mean, variance, excess = law.moments()
    if found.max() > law.cap:
        return 0.0, f"a cohort of {int(found.max())} where at most {law.cap} are asked"
    if variance < 1e-12:
        return float((found == round(mean)).all()), f"sizes must all be {round(mean)}"
    rounds, total = len(found), float(found.sum())
    spread = float(((found - mean) ** 2).sum() / variance)
    if rounds <= _SHORT:
        drawn = law.runs(rounds)
        sums = _tails(total, drawn.sum(axis=1))
        spreads = _tails(spread, ((drawn - mean) ** 2).sum(axis=1) / variance)
    else:
        z = (total - rounds * mean) / (rounds * variance) ** 0.5
        sums = float(ndtr(z)), float(ndtr(-z))
        scale = 1 + excess / 2  # the sum's mean and variance are T and T (2 + excess)
        spreads = (
            float(chdtr(rounds / scale, spread / scale)),
            float(chdtrc(rounds / scale, spread / scale)),
        )
    if law.cap == law.population:
        sums = _binomial_tails(int(total), rounds * law.population, law.sampling_prob)
    off, varies = 2 * min(sums), 2 * min(spreads)
    reason = "sizes are too much alike" if spreads[0] < spreads[1] else "sizes vary too much"
    if off <= varies:
        reason = f"{found.mean():.4g} clients on average instead of {mean:.4g}"
    return min(1.0, 2 * min(off, varies)), reason


def _binomial_tails(total: int, trials: int, sampling_prob: float) -> tuple[float, float]:
    """P(at most the total) and P(at least), exactly."""
    above = float(bdtrc(total - 1, trials, sampling_prob)) if total else 1.0
    return float(bdtr(total, trials, sampling_prob)), above


def _tails(value: float, among: Array) -> tuple[float, float]:
    """P(at most the value) and P(at least), never 0: the value is one draw more."""
    slack = 1e-9 * max(1.0, abs(value))
    below, above = (among <= value + slack).sum(), (among >= value - slack).sum()
    return (1 + int(below)) / (1 + len(among)), (1 + int(above)) / (1 + len(among))
