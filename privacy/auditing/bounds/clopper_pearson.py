"""From how often an attack was right to a lower bound on epsilon.

A game is played many times: a canary takes part or not, the mechanism runs, and the attack says
"in" where its score is above a threshold.  Any (epsilon, delta)-DP mechanism keeps

    1 - FNR <= e^epsilon FPR + delta     and     1 - FPR <= e^epsilon FNR + delta

so upper bounds on both error rates, each at alpha / 2, bound epsilon from below.

The threshold may not be the best one on the scores that are then counted: that bound is above the
truth more often than it says.  It is fixed before any score was seen (`at_threshold`), chosen
on one half and counted on the other (`split_lower`), or one of a few that were fixed
(`bonferroni_lower`).  Nothing else is offered.

Notation  FNR: share of canaries that are in and missed; FPR: share of those out that are called in

Source
    Jagielski, Ullman, Oprea (2020), "Auditing differentially private machine learning",
    arXiv:2006.07709, for the game; Clopper, Pearson (1934), Biometrika 26, for the rates;
    Nasr et al. (2023), arXiv:2302.07956, for the Gaussian version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, ndtri

from privacy import validate
from privacy.accounting.gaussian import epsilon_of
from privacy.auditing.bounds.lower_bound import GAUSSIAN, LowerBound
from privacy.validate import Array
from privacy.validate import delta as check_delta


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How a game went. Canaries that were in: found or missed; that were out: accused or cleared.

    Raises:
        PrivacyError: a number is no count, or no canary was in, or none was out.
    """

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int

    def __post_init__(self) -> None:
        for name in ("true_positives", "false_negatives", "false_positives", "true_negatives"):
            validate.whole("Counts", name, getattr(self, name))
        for name, total in (("positives", self.positives), ("negatives", self.negatives)):
            if not total:
                raise validate.refusal("Counts", name, "at least 1", 0, "Play the game both ways.")

    @property
    def positives(self) -> int:
        """Canaries that were in."""
        return self.true_positives + self.false_negatives

    @property
    def negatives(self) -> int:
        """Canaries that were out."""
        return self.false_positives + self.true_negatives


def rate_upper(errors: ArrayLike, trials: ArrayLike, alpha: float) -> Array:
    """Clopper-Pearson: rates that so few errors leave possible with probability alpha at most."""
    k, n = np.asarray(errors, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    inside = betaincinv(k + 1, np.maximum(n - k, 1), 1 - alpha)
    return np.asarray(np.where(k >= n, 1.0, inside))


def rates_upper(counts: Counts, alpha: float = 0.05) -> tuple[float, float]:
    """Upper bounds on FNR and FPR that hold together with probability 1 - alpha.

    Raises:
        PrivacyError: alpha is outside (0, 1).
    """
    validate.level("rates_upper", alpha)
    missed = rate_upper(counts.false_negatives, counts.positives, alpha / 2)
    accused = rate_upper(counts.false_positives, counts.negatives, alpha / 2)
    return float(missed), float(accused)


def rate_interval(errors: int, trials: int, alpha: float) -> tuple[float, float]:
    """Clopper-Pearson: where the rate lies with probability 1 - alpha, half missed each side."""
    low = 1 - float(rate_upper(trials - errors, trials, alpha / 2))
    return low, float(rate_upper(errors, trials, alpha / 2))


def epsilon_of_rates(fnr: ArrayLike, fpr: ArrayLike, delta: float) -> Array:
    """The smallest epsilon >= 0 at which errors as small as these are possible."""
    missed, accused = np.asarray(fnr, dtype=np.float64), np.asarray(fpr, dtype=np.float64)
    with np.errstate(divide="ignore"):
        found = np.log(np.maximum(1 - missed - delta, 0)) - np.log(accused)
        cleared = np.log(np.maximum(1 - accused - delta, 0)) - np.log(missed)
    return np.asarray(np.maximum(np.maximum(found, cleared), 0.0))


def lower(counts: Counts, *, delta: float, alpha: float = 0.05) -> LowerBound:
    """A lower bound on epsilon, from counts at a threshold that the counts did not choose.

    Args:
        counts: of independent games.
        delta: in [0, 1); that of the claim.
        alpha: how often the bound may be wrong.

    Raises:
        PrivacyError: delta or alpha is out of its range.

    Guarantees:
        It exceeds the truth in at most alpha of all audits.
    """
    validate.failure("lower", delta)
    epsilon = float(epsilon_of_rates(*rates_upper(counts, alpha), delta))
    ceiling = float(epsilon_of_rates(*rates_upper(_perfect(counts), alpha), delta))
    return LowerBound(epsilon=epsilon, delta=delta, alpha=alpha, method="counts", ceiling=ceiling)


def gaussian_lower(counts: Counts, *, delta: float, alpha: float = 0.05) -> LowerBound:
    """The same under the Gaussian hypothesis, which is much tighter where it is true.

    mu >= Phi^-1(1 - FPR) - Phi^-1(FNR), and epsilon is that of the Gaussian mechanism with this mu.

    Raises:
        PrivacyError: delta or alpha is outside (0, 1).

    Guarantees:
        Where the mechanism is Gaussian, it exceeds the truth in at most alpha of all audits.
    """
    check_delta("gaussian_lower", delta)
    mu = _mu(counts, alpha)
    ceiling = epsilon_of(delta, _mu(_perfect(counts), alpha))
    return LowerBound(
        epsilon=epsilon_of(delta, mu),
        delta=delta,
        alpha=alpha,
        method="counts",
        mu=mu,
        hypothesis=GAUSSIAN,
        ceiling=ceiling,
    )


def _mu(counts: Counts, alpha: float) -> float:
    missed, accused = rates_upper(counts, alpha)
    return max(0.0, float(ndtri(1 - accused) - ndtri(missed)))


def _perfect(counts: Counts) -> Counts:
    """The same game, of an attack that is always right."""
    return Counts(
        true_positives=counts.positives,
        false_negatives=0,
        false_positives=0,
        true_negatives=counts.negatives,
    )


# --- thresholds ----------------------------------------------------------------------------------


def at_threshold(inside: ArrayLike, outside: ArrayLike, threshold: float) -> Counts:
    """What an attack counts that says "in" above a threshold, fixed before the scores were seen.

    Args:
        inside: scores of canaries that were in [p].
        outside: of those that were out [n].
        threshold: a finite number.

    Raises:
        PrivacyError: a score or the threshold is not finite, or there are none.
    """
    scores_in = validate.finite("at_threshold", "inside", inside)
    scores_out = validate.finite("at_threshold", "outside", outside)
    (limit,) = validate.finite("at_threshold", "threshold", [threshold])
    found, accused = int((scores_in > limit).sum()), int((scores_out > limit).sum())
    return Counts(
        true_positives=found,
        false_negatives=len(scores_in) - found,
        false_positives=accused,
        true_negatives=len(scores_out) - accused,
    )


def split_lower(
    inside: ArrayLike, outside: ArrayLike, *, delta: float, alpha: float = 0.05
) -> LowerBound:
    """A lower bound at the threshold that is best on every other score, counted on the rest.

    Args:
        inside: scores of canaries that were in [p], independent of each other and of their order.
        outside: of those that were out [n], likewise.
        delta: in [0, 1).
        alpha: how often the bound may be wrong.

    Raises:
        PrivacyError: fewer than two scores of a kind, one that is not finite, or a bad level.

    Guarantees:
        It exceeds the truth in at most alpha of all audits.
    """
    counts = at_split(inside, outside, delta=delta, alpha=alpha)
    found = lower(counts, delta=delta, alpha=alpha)
    return _renamed(found, "counts, threshold from the other half")


def at_split(
    inside: ArrayLike,
    outside: ArrayLike,
    *,
    delta: float,
    alpha: float = 0.05,
    gaussian: bool = False,
) -> Counts:
    """What `split_lower` counts: every other score, at the threshold that is best on the rest.

    Args:
        inside: as in `split_lower`.
        outside: as in `split_lower`.
        delta: as in `split_lower`.
        alpha: as in `split_lower`.
        gaussian: whether it is to be best for `gaussian_lower`, which likes less extreme ones.

    Raises:
        PrivacyError: as in `split_lower`.
    """
    scores_in = validate.finite("split_lower", "inside", inside, least=2)
    scores_out = validate.finite("split_lower", "outside", outside, least=2)
    threshold = _best_threshold(scores_in[::2], scores_out[::2], delta, alpha, gaussian)
    return at_threshold(scores_in[1::2], scores_out[1::2], threshold)


def bonferroni_lower(
    inside: ArrayLike,
    outside: ArrayLike,
    thresholds: Sequence[float],
    *,
    delta: float,
    alpha: float = 0.05,
) -> LowerBound:
    """The best of K lower bounds, each at alpha / K, at thresholds fixed before any score was seen.

    Raises:
        PrivacyError: there is no threshold, one comes twice, or as in `lower`.

    Guarantees:
        It exceeds the truth in at most alpha of all audits.
    """
    limits = validate.finite("bonferroni_lower", "thresholds", thresholds)
    validate.level("bonferroni_lower", alpha)
    if len(np.unique(limits)) < len(limits):
        rule, remedy = "different from each other", "Say each once."
        raise validate.refusal("bonferroni_lower", "thresholds", rule, list(thresholds), remedy)
    counted = [at_threshold(inside, outside, limit) for limit in limits.tolist()]
    found = [lower(counts, delta=delta, alpha=alpha / len(limits)) for counts in counted]
    best = max(found, key=lambda bound: bound.epsilon)
    return _renamed(best, f"counts, best of {len(limits)} thresholds", alpha)


def at_rate(inside: ArrayLike, outside: ArrayLike, rate: float) -> Counts:
    """Counts at a false positive rate that was fixed in advance.

    The threshold is the least that accuses at most this share of every other score of `outside`;
    what is counted is the rest of them.

    Raises:
        PrivacyError: rate is outside [0, 1), or fewer than two scores are out.
    """
    if not (validate.is_number(rate) and 0 <= rate < 1):
        raise validate.refusal("at_rate", "rate", "in [0, 1)", rate, "Use 0.01.")
    scores = validate.finite("at_rate", "outside", outside, least=2)
    falling = np.sort(scores[::2])[::-1]
    threshold = float(falling[int(rate * len(falling))])
    return at_threshold(inside, scores[1::2], threshold)


def _best_threshold(
    inside: Array, outside: Array, delta: float, alpha: float, gaussian: bool
) -> float:
    """Of all scores, the one above which saying "in" gives the largest bound on these scores."""
    validate.failure("split_lower", delta)
    validate.level("split_lower", alpha)
    limits = np.unique(np.concatenate([inside, outside]))
    missed = np.searchsorted(np.sort(inside), limits, "right")
    accused = len(outside) - np.searchsorted(np.sort(outside), limits, "right")
    fnr = rate_upper(missed, len(inside), alpha / 2)
    fpr = rate_upper(accused, len(outside), alpha / 2)
    found = ndtri(1 - fpr) - ndtri(fnr) if gaussian else epsilon_of_rates(fnr, fpr, delta)
    return float(limits[int(np.argmax(found))])


def _renamed(bound: LowerBound, method: str, alpha: float | None = None) -> LowerBound:
    return replace(bound, method=method, alpha=bound.alpha if alpha is None else alpha)
