"""Stateless noise: C^-1 has few bands (or short tails), and earlier draws are regenerated.

    noise_t = sum_{j < p} b_j Z_{t-j},     b the first column of C^-1

Z_{t-j} is regenerated from its key, so there is no state, and a run resumes exactly.

Sources
    lambda_cgd      Kalinin, McKenna, Pagh, Lampert. "DP-lambda-CGD: Efficient Noise Correlation
                    for Differentially Private Model Training". ICML 2026. arXiv:2601.22334;
                    here without its normalisation of columns.
    square_root     Fichtenberger, Henzinger, Upadhyay. ICML 2023. arXiv:2202.11205.
    nu_ftrl         Choquette-Choo, Dvijotham, Pillutla, Ganesh, Steinke, Thakurta. "Correlated
                    Noise Provably Beats Independent Noise for Differentially Private Learning".
                    ICLR 2024. arXiv:2310.06771.
    banded_inverse  Kalinin, McKenna, Upadhyay, Lampert. "Back to Square Roots: An Optimal Bound on
                    the Matrix Factorization Error for Multi-Epoch Differentially Private SGD".
                    arXiv:2505.12128.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from privacy.matrix_factorization import toeplitz
from privacy.matrix_factorization.factorization import (
    Buffers,
    Draw,
    Factorization,
    Parameters,
    Time,
    freeze,
    make_zero_buffers,
    sum_draws,
)
from privacy.matrix_factorization.toeplitz import Array
from privacy.validate import refusal, whole_numbers


def independent(*, rounds: int) -> Factorization:
    """C = I: the noise of DP-SGD and DP-FedAvg.

    Raises:
        PrivacyError: a value is out of its range.
    """
    whole_numbers("independent", "State the length of the run.", rounds=rounds)
    one = toeplitz.pad(np.ones(1), rounds)
    return _make_stateless("independent", {}, one, one)


def lambda_cgd(lam: float, *, rounds: int) -> Factorization:
    """noise_t = Z_t - lam Z_{t-1}: each round cancels a part of the previous noise.

    Args:
        lam: in [0, 1).
        rounds: n.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        With lam = 0 the noise is independent, bit for bit.
    """
    whole_numbers("lambda_cgd", "State the length of the run.", rounds=rounds)
    if not 0 <= lam < 1:
        raise refusal("lambda_cgd", "lam", "in [0, 1)", lam, "Use 0.95.")
    inverse = toeplitz.pad(np.array([1.0, -lam]), rounds)
    powers = np.power(lam, np.arange(rounds), dtype=np.float64)
    return _make_stateless("lambda_cgd", {"lam": float(lam)}, powers, inverse)


def square_root(*, rounds: int) -> Factorization:
    """C C = the matrix of ones: near the least possible error when a unit takes part once.

    Every round regenerates the draws of all earlier rounds.

    Raises:
        PrivacyError: a value is out of its range.
    """
    whole_numbers("square_root", "State the length of the run.", rounds=rounds)
    c, b = toeplitz.square_root_series(rounds), toeplitz.inverse_root_series(rounds)
    return _make_stateless("square_root", {}, c, b)


def nu_ftrl(nu: float, *, rounds: int, bands: int | None = None) -> Factorization:
    """The square root, damped: both columns times (1 - nu)^k.

    Args:
        nu: in [0, 1]; 0 is the square root, 1 independent noise.
        rounds: n.
        bands: the maximum number of draws per round; None means all. C is then the exact
            inverse of the truncated C^-1, and its sensitivity is computed from that C.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        With nu = 1 the noise is independent, bit for bit.
        The truncated C is the exact inverse of the truncated C^-1.
    """
    whole_numbers("nu_ftrl", "State the length of the run.", rounds=rounds)
    if not 0 <= nu <= 1:
        raise refusal("nu_ftrl", "nu", "in [0, 1]", nu, "Use 0.01.")
    damping = (1.0 - nu) ** np.arange(rounds)
    c, b = (
        toeplitz.square_root_series(rounds) * damping,
        toeplitz.inverse_root_series(rounds) * damping,
    )
    parameters: Parameters = {"nu": float(nu)}
    if bands is not None:
        whole_numbers("nu_ftrl", "Use fewer.", up_to=rounds, bands=bands)
        b = toeplitz.pad(b[:bands], rounds)
        c = toeplitz.invert(b)
        parameters["bands"] = bands
    return _make_stateless("nu_ftrl", parameters, c, b)


def banded_inverse(bands: int, *, rounds: int) -> Factorization:
    """BISR: C^-1 is the first `bands` bands of the inverse square root.

    Args:
        bands: the number of draws per round; at most `rounds`.
        rounds: n.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        With one band the noise is independent, bit for bit.
    """
    whole_numbers("banded_inverse", "State the length of the run.", rounds=rounds)
    whole_numbers("banded_inverse", "Use fewer.", up_to=rounds, bands=bands)
    b = toeplitz.pad(toeplitz.inverse_root_series(bands), rounds)
    return _make_stateless("banded_inverse", {"bands": bands}, toeplitz.invert(b), b)


def _make_stateless(name: str, parameters: Parameters, c: Array, b: Array) -> Factorization:
    weights = b[: toeplitz.count_bands(b)].tolist()

    def recurrence(buffers: Buffers, t: Time, draw: Draw) -> tuple[Tensor, Buffers]:
        return sum_draws(draw, weights, t), buffers

    return Factorization(
        name=name,
        parameters=parameters,
        rounds=len(c),
        coefficients=freeze(c),
        inverse=freeze(b),
        reach=len(weights) - 1,
        buffers=make_zero_buffers(0),
        recurrence=recurrence,
    )
