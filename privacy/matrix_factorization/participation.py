"""Participation schemas, and the sensitivity of a strategy under each of them.

A unit takes part at times t_1 < t_2 < ... (counted from 0) with contributions u_i, ||u_i|| <= 1,
all of which change at once between neighbours. The strategy C then changes by sum_i C[:, t_i] u_i:

    sens^2 = max over the schema's patterns of  sum_{i,j} |(C^T C)[t_i, t_j]|

is attained by equal u_i where C^T C >= 0, and an upper bound otherwise.

Sources
    Choquette-Choo, McMahan, Rush, Thakurta. "Multi-Epoch Matrix Factorization Mechanisms for
    Private Machine Learning". ICML 2023. arXiv:2211.06530, for fixed epochs.
    Choquette-Choo et al. "(Amplified) Banded Matrix Factorization". NeurIPS 2023.
    arXiv:2306.08153, for minimum separation, banded strategies and the dynamic programme.
    Kalinin, Lampert. "Banded Square Root Matrix Factorization for Differentially Private Model
    Training". NeurIPS 2024. arXiv:2405.13763, for non-increasing Toeplitz strategies.

Shapes: n rounds. A strategy is C's first column [n] where C is Toeplitz, else C [n, n].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from privacy.matrix_factorization import toeplitz
from privacy.matrix_factorization.toeplitz import Array
from privacy.validate import refusal, whole_numbers


class Sensitivity(NamedTuple):
    """A sensitivity, in units of the bound on one contribution; if not `exact`, an upper bound."""

    value: float
    exact: bool


@dataclass(frozen=True)
class Single:
    """A unit takes part once."""

    def admits(self, times: Sequence[int]) -> bool:
        """Whether these participations of one unit satisfy the schema."""
        return len(times) <= 1


@dataclass(frozen=True)
class MinSeparation:
    """A unit takes part at most `most` times, any two at least `separation` rounds apart.

    Raises:
        PrivacyError: one of them is below 1.
    """

    separation: int
    most: int

    def __post_init__(self) -> None:
        whole_numbers("min_separation", "Use 1.", separation=self.separation, most=self.most)

    def admits(self, times: Sequence[int]) -> bool:
        """Whether these participations of one unit satisfy the schema."""
        near = np.diff(sorted(times)) < self.separation
        return len(times) <= self.most and not bool(near.any())

    def participations(self, rounds: int) -> int:
        """The maximum number of participations in `rounds` rounds."""
        return min(self.most, math.ceil(rounds / self.separation))


@dataclass(frozen=True)
class FixedEpoch:
    """A unit takes part at the same place of every one of `epochs` periods of `period` rounds.

    Raises:
        PrivacyError: one of them is below 1.
    """

    period: int
    epochs: int

    def __post_init__(self) -> None:
        whole_numbers("fixed_epoch", "Use 1.", period=self.period, epochs=self.epochs)

    def admits(self, times: Sequence[int]) -> bool:
        """Whether these participations of one unit satisfy the schema."""
        return len(set(times)) == len(times) <= self.epochs and (
            len({time % self.period for time in times}) <= 1
        )


@dataclass(frozen=True)
class Observed:
    """Recorded participation: for each unit, the times at which it took part, counted from 0.

    Raises:
        PrivacyError: a unit's times repeat, or are not whole numbers of at least 0.
    """

    times: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for unit in self.times:
            for time in unit:
                whole_numbers("observed", "Count rounds from 0.", from_=0, times=time)
            if len(set(unit)) < len(unit):
                raise refusal(
                    "observed", "times", "different for one unit", unit, "Count rounds once."
                )

    def admits(self, times: Sequence[int]) -> bool:
        """Whether these participations are among those of a recorded unit."""
        return any(set(times) <= set(unit) for unit in self.times)


Participation: TypeAlias = Single | MinSeparation | FixedEpoch | Observed


def sensitivity(strategy: Array, schema: Participation) -> Sensitivity:
    """The largest change of C x by one unit, over the patterns of `schema`.

    Args:
        strategy: [n], or [n, n].
        schema: how often a unit may take part in these n rounds.

    Raises:
        PrivacyError: a strategy is not finite, or the schema does not describe n rounds.

    Guarantees:
        For non-increasing coefficients it equals the maximum over all patterns.
        For other coefficients it is an upper bound, and flagged as one.
        It grows with `most` and falls with `separation`.
        Scaling the strategy scales it.
    """
    n = len(strategy)
    if not np.isfinite(strategy).all():
        raise refusal("sensitivity", "strategy", "finite", strategy, "Check its parameters.")
    if isinstance(schema, FixedEpoch) and schema.period * schema.epochs < n:
        rule = f"at least {n} rounds in all"
        raise refusal("sensitivity", "fixed epochs", rule, schema, "Say all epochs of the run.")
    if isinstance(schema, Observed):
        return _observed_sensitivity(strategy, schema)
    if strategy.ndim == 1:
        return _toeplitz_sensitivity(strategy, schema)
    return _matrix_sensitivity(strategy, schema)


def _toeplitz_sensitivity(c: Array, schema: Single | MinSeparation | FixedEpoch) -> Sensitivity:
    n = len(c)
    match schema:
        case Single():
            return Sensitivity(float(np.linalg.norm(c)), exact=True)
        case FixedEpoch(period, epochs):
            # The later of two places is the earlier one, cut at the end: the first is the worst.
            if c.min() >= 0 or toeplitz.count_bands(c) <= period:
                return Sensitivity(_even_pattern_norm(c, period, epochs), exact=True)
            return _matrix_sensitivity(toeplitz.to_matrix(c), schema)
        case MinSeparation(separation):
            most = schema.participations(n)
            disjoint = most == 1 or toeplitz.count_bands(c) <= separation
            if disjoint or toeplitz.is_non_increasing(c):
                return Sensitivity(_even_pattern_norm(c, separation, most), exact=True)
            return Sensitivity(
                _even_pattern_norm(toeplitz.non_increasing_majorant(c), separation, most),
                exact=False,
            )


def _even_pattern_norm(c: Array, separation: int, most: int) -> float:
    """The norm of the sum of columns 0, b, 2b, ...: the maximum for non-increasing series."""
    total = np.zeros_like(c)
    for time in range(0, min(len(c), separation * most), separation):
        total[time:] += c[: len(c) - time]
    return float(np.linalg.norm(total))


def _matrix_sensitivity(
    strategy: Array, schema: Single | MinSeparation | FixedEpoch
) -> Sensitivity:
    gram = strategy.T @ strategy
    equal = bool(gram.min() >= 0)
    gram, n = np.abs(gram), len(gram)
    match schema:
        case Single():
            return Sensitivity(float(np.sqrt(gram.diagonal().max())), exact=True)
        case FixedEpoch(period):
            most = max(gram[place::period, place::period].sum() for place in range(period))
            return Sensitivity(float(np.sqrt(most)), exact=equal)
        case MinSeparation(separation):
            count = schema.participations(n)
            far = np.tril(gram, -separation)
            if count == 1 or not far.any():  # columns of one pattern are orthogonal
                return Sensitivity(
                    _root_largest_sum(gram.diagonal(), separation, count), exact=True
                )
            rows = _largest_separated_sum(gram, separation, count)
            return Sensitivity(_root_largest_sum(rows, separation, count), exact=False)


def _largest_separated_sum(weights: Array, separation: int, count: int) -> Array:
    """The largest sum of `count` weights [..., n] that are `separation` apart; [...].

    best[i] is that sum from place i on; with one more place to take it is the larger of
    weights[i] + best[i + separation] and its own value at i + 1.
    """
    best = np.zeros((*weights.shape[:-1], weights.shape[-1] + separation))
    for _ in range(count):
        taken = weights + best[..., separation:]
        best[..., :-separation] = np.maximum.accumulate(taken[..., ::-1], axis=-1)[..., ::-1]
    result: Array = best[..., 0]
    return result


def _root_largest_sum(weights: Array, separation: int, count: int) -> float:
    return float(np.sqrt(_largest_separated_sum(weights, separation, count)))


def _observed_sensitivity(strategy: Array, schema: Observed) -> Sensitivity:
    square, equal = 0.0, True
    for unit in {tuple(sorted(times)) for times in schema.times if times}:
        if unit[-1] >= len(strategy):
            rule = f"below {len(strategy)}"
            raise refusal("sensitivity", "observed time", rule, unit[-1], "State more rounds.")
        columns = _select_columns(strategy, unit)
        gram = columns.T @ columns
        square = max(square, float(np.abs(gram).sum()))
        equal = equal and bool(gram.min() >= 0)
    return Sensitivity(math.sqrt(square), exact=equal)


def _select_columns(strategy: Array, times: Iterable[int]) -> Array:
    if strategy.ndim == 2:
        return strategy[:, list(times)]
    n = len(strategy)
    shifted = [np.concatenate([np.zeros(time), strategy[: n - time]]) for time in times]
    return np.stack(shifted, axis=1)
