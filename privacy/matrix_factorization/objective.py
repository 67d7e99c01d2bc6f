"""The objective of optimised strategies and its gradient, fast enough for thousands of rounds.

    log(sens^2 error),   error the mean or the largest variance of a prefix sum

as a function of C's first column c. With B = A C^-1, S the sum of the columns of the worst pattern:

    d sens^2 / dc_i = 2 sum_j S_{i + j b},    dB / dc_i = -x^i B / c

Source: arXiv:2405.15913 and arXiv:2408.08868 for the objective; the gradient is derived here.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from scipy.signal import correlate, fftconvolve

from privacy.matrix_factorization.participation import MinSeparation
from privacy.matrix_factorization.toeplitz import Array, pad
from privacy.validate import refusal

Error: TypeAlias = Literal["mean", "max"]


def check_error(who: str, error: str) -> None:
    """Refuse anything but "mean" and "max"."""
    if error not in ("mean", "max"):
        raise refusal(who, "error", "'mean' or 'max'", error, "Use 'mean'.")


def log_loss(c: Array, inverse: Array, schema: MinSeparation, error: Error) -> tuple[float, Array]:
    """The loss and its gradient in c, [n].

    Args:
        c: [n], falling, or of at most `schema.separation` bands.
        inverse: [n], the series 1 / c.
        schema: how often a unit may take part.
        error: of the prefix sums; "max" is that of the last one.

    Guarantees:
        The gradient is that of the loss.
    """
    n, gap = len(c), schema.separation
    times = range(0, gap * schema.participations(n), gap)
    moved = sum((np.concatenate([np.zeros(t), c[: n - t]]) for t in times), np.zeros(n))
    pushed = sum((pad(moved[t:], n) for t in times), np.zeros(n))
    square = float(moved @ moved)

    b = np.cumsum(inverse)
    share = np.arange(n, 0.0, -1) / n if error == "mean" else np.ones(n)
    size = float(share @ b**2)
    slope = fftconvolve(b, inverse)[:n]
    pulled = correlate(share * b, slope, method="fft")[n - 1 :]
    return float(np.log(square * size)), 2 * pushed / square - 2 * pulled / size
