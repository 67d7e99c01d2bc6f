"""Strategies C with p bands: columns p rounds apart do not overlap.

    noise_t = (Z_t - sum_{1 <= j < p} c_j noise_{t-j}) / c_0

keeps the last p - 1 outputs. With columns of norm one (`normalised`) the output of time t is
further multiplied by the norm of column t; the recursion itself runs without it.

Sources
    banded_square_root  Kalinin, Lampert. "Banded Square Root Matrix Factorization for
                        Differentially Private Model Training". NeurIPS 2024. arXiv:2405.13763.
    banded              Choquette-Choo et al. "(Amplified) Banded Matrix Factorization". NeurIPS
                        2023. arXiv:2306.08153; as Toeplitz matrices: McKenna. "Scaling up the
                        Banded Matrix Factorization Mechanism for Differentially Private ML". ICLR
                        2025. arXiv:2405.15913.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from privacy.matrix_factorization import toeplitz
from privacy.matrix_factorization.factorization import (
    Buffers,
    Draw,
    Factorization,
    Time,
    freeze,
    make_zero_buffers,
    subtract_weighted,
)
from privacy.matrix_factorization.objective import Error, check_error, log_loss
from privacy.matrix_factorization.participation import MinSeparation
from privacy.matrix_factorization.toeplitz import Array
from privacy.validate import refusal, whole_numbers


def banded_toeplitz(
    coefficients: Sequence[float], *, rounds: int, normalised: bool = False
) -> Factorization:
    """The banded Toeplitz strategy with these coefficients.

    Args:
        coefficients: the p first entries of C's first column; the first is above 0.
        rounds: n, at least p.
        normalised: whether to divide every column by its norm; only those of the last p - 1 differ.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        With one band the noise is independent, bit for bit.
    """
    who = "banded_toeplitz"
    whole_numbers(who, "State the length of the run.", rounds=rounds)
    whole_numbers(who, "Use fewer.", up_to=rounds, bands=len(coefficients))
    if not np.isfinite(coefficients).all():
        raise refusal(who, "coefficients", "finite", coefficients, "Use banded_square_root.")
    if coefficients[0] <= 0:
        raise refusal(who, "coefficients[0]", "> 0", coefficients[0], "Use 1.")
    c = toeplitz.pad(np.array(coefficients, dtype=np.float64), rounds)
    scale = np.sqrt(np.cumsum(c**2))[::-1] if normalised else None  # column t has n - t entries
    first, *others = c[: toeplitz.count_bands(c)].tolist()

    def recurrence(buffers: Buffers, t: Time, draw: Draw) -> tuple[Tensor, Buffers]:
        output = subtract_weighted(draw(0), others, buffers) / first
        noise = output if scale is None else output * _at(scale, t, output)
        return noise, (output, *buffers)[: len(others)]

    return Factorization(
        name=who,
        parameters={
            "coefficients": [float(value) for value in coefficients],
            "normalised": normalised,
        },
        rounds=rounds,
        coefficients=freeze(c),
        inverse=freeze(toeplitz.invert(c)),
        column_scale=None if scale is None else freeze(scale),
        reach=0,
        buffers=make_zero_buffers(len(others)),
        recurrence=recurrence,
    )


def _at(scale: Array, t: Time, like: Tensor) -> Tensor | float:
    if isinstance(t, int):
        return float(scale[t])
    return torch.as_tensor(scale.copy(), dtype=like.dtype, device=like.device)[t].unsqueeze(-1)


def banded_square_root(bands: int, *, rounds: int) -> Factorization:
    """BSR: the first `bands` bands of the square root, without optimisation.

    Args:
        bands: p, at most `rounds`; at most the rounds between two participations of a unit.
        rounds: n.

    Raises:
        PrivacyError: a value is out of its range.
    """
    whole_numbers("banded_square_root", "Use fewer.", up_to=rounds, bands=bands)
    return banded_toeplitz(toeplitz.square_root_series(bands).tolist(), rounds=rounds)


def banded(
    bands: int,
    *,
    rounds: int,
    separation: int,
    participations: int,
    error: Error = "mean",
    normalised: bool = False,
) -> Factorization:
    """BandMF: the Toeplitz strategy with `bands` bands that minimises the loss, found by L-BFGS.

    Args:
        bands: p, at most `separation`.
        rounds: n.
        separation: b, the least number of rounds between two participations of a unit.
        participations: k, how often a unit takes part, at most.
        error: the error of the prefix sums to minimise, "mean" or "max".
        normalised: whether to divide every column of the result by its norm.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        Its loss is never above that of the banded square root.
        The same arguments give the same coefficients.
    """
    schema = MinSeparation(separation, participations)
    whole_numbers("banded", "State the length of the run.", rounds=rounds)
    whole_numbers("banded", "Use fewer.", up_to=min(rounds, separation), bands=bands)
    check_error("banded", error)

    def loss(tail: Array) -> tuple[float, Array]:
        c = toeplitz.pad(np.concatenate([[1.0], tail]), rounds)
        value, gradient = log_loss(c, toeplitz.invert(c), schema, error)
        return value, gradient[1:bands]

    start = toeplitz.square_root_series(bands)[1:]
    result = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 1000, "maxcor": 30, "ftol": 1e-15, "gtol": 1e-9},
    )
    best = result.x if result.fun <= loss(start)[0] else start
    return banded_toeplitz([1.0, *best.tolist()], rounds=rounds, normalised=normalised)
