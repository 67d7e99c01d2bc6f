"""Batches that are shuffled, clipped whole, or allotted at random, and reports that are shuffled.

Shuffling hides much less than Poisson sampling: it is accounted by an interval whose upper end
claims nothing for the shuffle.

Source
    Chua et al. (2024), arXiv:2403.17673, for the lower bound on shuffled batches;
    van Dijk, Nguyen (2023), "Generalizing DP-SGD with shuffling and batch clipping", for sqrt(gE);
    Feldman, McMillan, Talwar (2021), arXiv:2012.12803, for shuffled local reports;
    Ertan, van Dijk (2026) for random allocation, checked here by quadrature.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr

from privacy import validate
from privacy.accounting.threshold_search import Array, largest


def shuffled_delta(epsilon: float, noise_multiplier: float, batches: int) -> float:
    """A lower bound on delta(epsilon) of one epoch of shuffled batches, one unit zeroed out.

    All other units push against the odd one, which then moves one batch by 2 and not by 1; the
    test asks whether any batch's sum exceeds c.

    Args:
        epsilon: where, >= 0.
        noise_multiplier: noise_std / clip_norm, > 0.
        batches: steps in the epoch, >= 1.

    Raises:
        PrivacyError: a value is out of its range.
    """
    validate.epsilon("shuffled_delta", epsilon)
    check_epoch("shuffled_delta", noise_multiplier, batches)

    def gain(c: Array) -> Array:
        hits, false = _alarms(c, noise_multiplier, batches)
        return hits - np.exp(np.minimum(epsilon + np.log(false), 700))

    return max(0.0, largest(gain, *_thresholds(noise_multiplier)))


def shuffled_epsilon(delta: float, noise_multiplier: float, batches: int) -> float:
    """A lower bound on epsilon(delta) of one epoch of shuffled batches, one unit zeroed out.

    Raises:
        PrivacyError: a value is out of its range.
    """
    validate.delta("shuffled_epsilon", delta)
    check_epoch("shuffled_epsilon", noise_multiplier, batches)

    def ratio(c: Array) -> Array:
        hits, false = _alarms(c, noise_multiplier, batches)
        return np.log(np.maximum(hits - delta, 1e-300)) - np.log(false)

    return max(0.0, largest(ratio, *_thresholds(noise_multiplier)))


def _alarms(c: Array, z: float, batches: int) -> tuple[Array, Array]:
    """How often "some batch exceeds c" is true with the odd unit, and without it."""
    others = (batches - 1) * log_ndtr(c / z)
    hits = -np.expm1(log_ndtr((c - 2) / z) + others)
    false = -np.expm1(log_ndtr((c - 1) / z) + others)
    return hits, np.maximum(false, 1e-300)


def _thresholds(z: float) -> tuple[float, float]:
    return -8 * z, 2 + 20 * z


def check_epoch(who: str, noise_multiplier: float, batches: int) -> None:
    """Refuse an epoch without noise, or of no batch."""
    validate.noise(who, noise_multiplier, zero_allowed=False)
    validate.whole(who, "batches", batches, 1)


def batch_clipping_mu(noise_multiplier: float, epochs: int, group: int = 1) -> float:
    """Mu for a group of units when each batch's own result is clipped once: sqrt(g E) / z.

    The noise's standard deviation is noise_multiplier * 2 clip_norm, as a batch that has changed
    may move its clipped result from one side of the ball to the other.

    Args:
        noise_multiplier: noise_std / (2 clip_norm), > 0.
        epochs: how often every unit takes part.
        group: how many units a neighbour may change.

    Raises:
        PrivacyError: a value is out of its range.
    """
    validate.noise("batch_clipping_mu", noise_multiplier, zero_allowed=False)
    validate.whole("batch_clipping_mu", "epochs", epochs)
    validate.whole("batch_clipping_mu", "group", group)
    return math.sqrt(group * epochs) / noise_multiplier


def shuffled_reports(local_epsilon: float, reports: int, delta: float) -> float:
    """An upper bound on the central epsilon of `reports` shuffled local reports.

    Args:
        local_epsilon: what one report spends, without a delta.
        reports: number of reports shuffled together.
        delta: failure probability of the bound.

    Raises:
        PrivacyError: a value is out of its range, or there are too few reports for the theorem.
    """
    validate.epsilon("shuffled_reports", local_epsilon)
    validate.whole("shuffled_reports", "reports", reports, 1)
    validate.delta("shuffled_reports", delta)
    most = math.log(reports / (16 * math.log(2 / delta)))
    if local_epsilon > most:
        rule = f"at most ln(reports / (16 ln(2 / delta))) = {most:.4g}"
        remedy = "Shuffle more reports, or claim local_epsilon itself."
        raise validate.refusal("shuffled_reports", "local_epsilon", rule, local_epsilon, remedy)
    odds = math.exp(local_epsilon)
    hidden = 8 * math.sqrt(odds * math.log(4 / delta) / reports) + 8 * odds / reports
    return math.log1p((odds - 1) / (odds + 1) * hidden)


def truth_prob(epsilon: float, values: int) -> float:
    """With which probability randomised response over `values` answers tells the truth.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        Truth is e^epsilon times as likely as any one lie.
    """
    validate.epsilon("truth_prob", epsilon)
    validate.whole("truth_prob", "values", values, 2)
    return 1 / (1 + (values - 1) * math.exp(-epsilon))


def allocation_tv(noise_multiplier: float, batches: int, epochs: int = 1) -> float:
    """An upper bound on the total variation when every unit joins one random step an epoch.

    It bounds an attack's accuracy, 1/2 + tv/2; it says nothing of epsilon at a small delta.

    Raises:
        PrivacyError: a value is out of its range.
    """
    check_epoch("allocation_tv", noise_multiplier, batches)
    validate.whole("allocation_tv", "epochs", epochs)
    exponent = min(1 / noise_multiplier, 25.0) ** 2
    grown = epochs * math.log1p(math.expm1(exponent) / batches)
    chi_square = math.expm1(min(grown, 700.0))
    return math.sqrt(chi_square) / 2 if chi_square <= 1 else chi_square / (1 + chi_square)


def allocation_noise(tv: float, batches: int, epochs: int = 1) -> float:
    """The noise multiplier from which `allocation_tv` is at most `tv`.

    Args:
        tv: the total variation allowed, in (0, 1/2].
        batches: steps in an epoch.
        epochs: how often every unit takes part.

    Raises:
        PrivacyError: a value is out of its range.
    """
    if not (validate.is_number(tv) and 0 < tv <= 0.5):
        raise validate.refusal("allocation_noise", "tv", "in (0, 1/2]", tv, "Use 0.1.")
    validate.whole("allocation_noise", "batches", batches, 1)
    validate.whole("allocation_noise", "epochs", epochs, 1)
    chi_square = math.expm1(math.log1p(4 * tv**2) / epochs)
    return 1 / math.sqrt(math.log1p(batches * chi_square))
