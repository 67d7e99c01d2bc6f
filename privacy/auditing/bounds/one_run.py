"""An audit of one training run, with many canaries that were each in or out by a coin.

Every canary i gets a fair coin S_i, independent of everything; those with S_i = 1 take part.  From
what the run released, the attack guesses some of the coins and abstains from the others.  The more
guesses are right, the larger epsilon must be.

Notation
    m canaries, r guesses that were made, v of them right, q = e^epsilon / (1 + e^epsilon)

p-value of "(epsilon, delta)-DP", where B is binomial with r trials of probability q:

    P(B >= v) + 2 m delta max_{1 <= i <= v} P(v - i <= B <= v - 1) / i

Its f-DP version assumes a curve, here a Gaussian one, and asks how large the share of right guesses
can be at all: from r0 = p v / m, h0 = p (r - v) / m, for i = v - 1, ..., 0,

    h = max(h0, Phi(Phi^-1(r0) - mu)),    r0 += i / (r - i) (h - h0),    h0 = h

and mu is refuted where r0 + h0 ends above r / m.

Source
    Steinke, Nasr, Jagielski (2023), "Privacy auditing with one (1) training run",
    arXiv:2305.08846; Mahloujifar, Melis, Chaudhuri (2025), "Auditing f-differential privacy in one
    run", ICML, PMLR 267.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrc, expit, ndtr, ndtri

from privacy import validate
from privacy.accounting.gaussian import epsilon_of
from privacy.auditing.bounds import binomial
from privacy.auditing.bounds.lower_bound import GAUSSIAN, LowerBound
from privacy.validate import delta as check_delta


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """How an attack's guesses went: of m canaries it guessed r, and v of them right.

    Raises:
        PrivacyError: they are no counts with 1 <= guessed <= canaries and correct <= guessed.
    """

    canaries: int
    guessed: int
    correct: int

    def __post_init__(self) -> None:
        validate.whole("Guesses", "canaries", self.canaries, 1)
        validate.whole("Guesses", "guessed", self.guessed, 1)
        validate.whole("Guesses", "correct", self.correct)
        for name, value, most in (
            ("guessed", self.guessed, self.canaries),
            ("correct", self.correct, self.guessed),
        ):
            if value > most:
                raise validate.refusal("Guesses", name, f"at most {most}", value, "Count again.")


def guess(scores: ArrayLike, most: int, least: int) -> NDArray[np.int64]:
    """+1 for the `most` largest scores, -1 for the `least` smallest, 0 for the rest; [m].

    Args:
        scores: [m], larger where the attack rather believes "in". Of equal ones the first counts
            as smaller, so canaries must not be ordered by their coins.
        most: how many are guessed to be in, fixed before the scores were seen.
        least: how many are guessed to be out, likewise.

    Raises:
        PrivacyError: a score is not finite, or there are fewer than guesses.
    """
    found = validate.finite("guess", "scores", scores)
    validate.whole("guess", "most", most)
    validate.whole("guess", "least", least)
    if most + least > len(found):
        rule = f"at most the number of canaries, {len(found)}, together with least"
        raise validate.refusal("guess", "most", rule, most, "Guess fewer.")
    order = np.argsort(found, kind="stable")
    answer = np.zeros(len(found), dtype=np.int64)
    answer[order[len(found) - most :]] = 1
    answer[order[:least]] = -1
    return answer


def compared(guesses: ArrayLike, included: ArrayLike) -> Guesses:
    """How guesses in {-1, 0, +1} [m] went, given who was in; [m], bool.

    Raises:
        PrivacyError: the two differ in length, or nothing was guessed.
    """
    validate.same_length("compared", "included", included, guesses)
    answer, coins = np.asarray(guesses), np.asarray(included, dtype=bool)
    made = answer != 0
    right = made & ((answer > 0) == coins)
    return Guesses(canaries=len(answer), guessed=int(made.sum()), correct=int(right.sum()))


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """How likely so many right guesses are, at most, of an (epsilon, delta)-DP mechanism.

    Raises:
        PrivacyError: epsilon is no finite number of at least 0, or delta is outside [0, 1).

    Guarantees:
        It never falls as epsilon or delta rise.
    """
    validate.failure("p_value", delta)
    if not (validate.is_number(epsilon) and 0 <= epsilon < math.inf):
        raise validate.refusal("p_value", "epsilon", "a finite number >= 0", epsilon, "Use 1.0.")
    return _p_value(guesses, epsilon, delta)


def lower(guesses: Guesses, *, delta: float, alpha: float = 0.05) -> LowerBound:
    """The largest epsilon that the guesses refute.

    Raises:
        PrivacyError: delta is outside [0, 1), or alpha outside (0, 1).

    Guarantees:
        It exceeds the truth in at most alpha of all audits.
        Not even a perfect attack shows more than the ceiling.
    """
    validate.failure("lower", delta)
    validate.level("lower", alpha)

    def largest(of: Guesses) -> float:
        return _largest(lambda epsilon: _p_value(of, epsilon, delta) <= alpha)

    perfect = Guesses(canaries=guesses.canaries, guessed=guesses.guessed, correct=guesses.guessed)
    return LowerBound(
        epsilon=largest(guesses),
        delta=delta,
        alpha=alpha,
        method=_method(guesses),
        ceiling=largest(perfect),
    )


def gaussian_lower(guesses: Guesses, *, delta: float, alpha: float = 0.05) -> LowerBound:
    """The same under the Gaussian hypothesis: epsilon of the largest mu that the guesses refute.

    Raises:
        PrivacyError: delta or alpha is outside (0, 1).

    Guarantees:
        Where the mechanism is Gaussian, it exceeds the truth in at most alpha of all audits.
    """
    check_delta("gaussian_lower", delta)
    validate.level("gaussian_lower", alpha)

    def largest(of: Guesses) -> float:
        return _largest(lambda mu: _refuted(of, mu, alpha))

    mu = largest(guesses)
    perfect = Guesses(canaries=guesses.canaries, guessed=guesses.guessed, correct=guesses.guessed)
    return LowerBound(
        epsilon=epsilon_of(delta, mu),
        delta=delta,
        alpha=alpha,
        method=_method(guesses),
        mu=mu,
        hypothesis=GAUSSIAN,
        ceiling=epsilon_of(delta, largest(perfect)),
    )


def _p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    m, r, v = guesses.canaries, guesses.guessed, guesses.correct
    if not v:
        return 1.0
    q = float(expit(epsilon))
    beta = float(bdtrc(v - 1, r, q))  # P(B >= v)
    if not delta:
        return beta
    below = np.cumsum(binomial.pmf(np.arange(v - 1.0, -1.0, -1.0), r, q))  # P(v - i <= B <= v - 1)
    worst = float((below / np.arange(1, v + 1)).max())
    return min(1.0, beta + 2 * m * delta * worst)


def _refuted(guesses: Guesses, mu: float, alpha: float) -> bool:
    m, r, v = guesses.canaries, guesses.guessed, guesses.correct
    right, wrong = alpha * v / m, alpha * (r - v) / m
    for i in range(v - 1, -1, -1):
        more = max(wrong, float(ndtr(ndtri(right) - mu)))
        if more == wrong:
            break
        right = min(1.0, right + i / (r - i) * (more - wrong))
        wrong = more
    return right + wrong > r / m


def _largest(refuted: Callable[[float], bool]) -> float:
    """The largest number of at least 0 that is refuted, from below; 0 where none is."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _method(guesses: Guesses) -> str:
    return f"one run, m={guesses.canaries} r={guesses.guessed} v={guesses.correct}"
