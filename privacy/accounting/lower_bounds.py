"""How little noise cannot be private: lower bounds on what any attack may gain.

One unit moves one of M sums of an epoch by t = 1 / noise_multiplier; the test asks whether any sum
exceeds h.  It errs with alpha = 1 - Phi(h)^M and beta = Phi(h - t) Phi(h)^(M - 1), whatever an
accountant may say.  Above the threshold nothing is promised: it is a warning, not a guarantee.

Source
    Ertan, van Dijk (2026), arXiv:2601.10237; the tests are re-derived and checked here.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr, ndtr

from privacy import validate
from privacy.accounting.shuffled import check_epoch
from privacy.accounting.threshold_search import Array, largest


def noise_threshold(batches: int) -> float:
    """1 / sqrt(2 ln M), below which kappa is large for one epoch of M = `batches` >= 2.

    Raises:
        PrivacyError: batches is no whole number of at least 2.
    """
    validate.whole("noise_threshold", "batches", batches, 2)
    return 1 / math.sqrt(2 * math.log(batches))


def shuffled_kappa(noise_multiplier: float, batches: int) -> float:
    """A lower bound on kappa of one shuffled epoch, by the best h.

    Raises:
        PrivacyError: a value is out of its range.
    """
    check_epoch("shuffled_kappa", noise_multiplier, batches)
    t = 1 / noise_multiplier
    return largest(lambda h: _shuffled_gain(h, t, batches), -2.0, t + 10.0) / math.sqrt(2)


def poisson_kappa(noise_multiplier: float, batches: int) -> float:
    """A lower bound on kappa of M steps of Poisson sampling at 1 / M, by the best h.

    Raises:
        PrivacyError: a value is out of its range.
    """
    check_epoch("poisson_kappa", noise_multiplier, batches)
    t = 1 / noise_multiplier

    def gain(h: Array) -> Array:
        missed = np.log1p((np.exp(log_ndtr(h - t) - log_ndtr(h)) - 1) / batches)
        return np.asarray(np.exp(batches * log_ndtr(h)) * -np.expm1(batches * missed))

    return largest(gain, -2.0, t + 10.0) / math.sqrt(2)


def warning(noise_multiplier: float, batches: int) -> str | None:
    """One sentence when a plan cannot be private, however it is accounted; else None.

    Raises:
        PrivacyError: a value is out of its range.
    """
    check_epoch("warning", noise_multiplier, batches)
    if batches < 2 or noise_multiplier >= noise_threshold(batches):
        return None
    gain = shuffled_kappa(noise_multiplier, batches) * math.sqrt(2)
    return (
        f"noise_multiplier {noise_multiplier:g} is below {noise_threshold(batches):.3f}, the least "
        f"for {batches} batches an epoch: after one epoch some attack's true positive rate may "
        f"exceed its false positive rate by {gain:.0%}."
    )


def _shuffled_gain(h: Array, t: float, batches: int) -> Array:
    """1 - alpha - beta of the test "some sum exceeds h"."""
    return np.asarray(np.exp((batches - 1) * log_ndtr(h)) * (ndtr(h) - ndtr(h - t)))
