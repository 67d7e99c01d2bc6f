"""Closed forms for nu-DP-FTRL: its squared sensitivity, and its gain in mean estimation.

Source
    Choquette-Choo, Dvijotham, Pillutla, Ganesh, Steinke, Thakurta. "Correlated Noise Provably
    Beats Independent Noise for Differentially Private Learning". ICLR 2024. arXiv:2310.06771.
    The elliptic integral is the Legendre series sum_k (binom(2k, k) / 4^k)^2 m^k = (2 / pi) K(m).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ellipkm1

from privacy.matrix_factorization import toeplitz
from privacy.validate import refusal, whole_numbers


def nu_square_sensitivity(nu: float, rounds: int | None = None) -> float:
    """gamma_T^2: the squared sensitivity when a unit takes part once in T rounds.

    Args:
        nu: in [0, 1].
        rounds: T; without it the limit (2 / pi) K((1 - nu)^2), infinite for nu = 0.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        It is the sum of squares of the coefficients of `nu_ftrl`.
        It grows with T to its limit.
    """
    if not 0 <= nu <= 1:
        raise refusal("nu_square_sensitivity", "nu", "in [0, 1]", nu, "Use 0.01.")
    if rounds is None:
        return 2 / math.pi * float(ellipkm1(nu * (2 - nu)))  # K(1 - p) of p: exact for small nu
    whole_numbers("nu_square_sensitivity", "State the length of the run.", rounds=rounds)
    return float(
        np.sum((toeplitz.square_root_series(rounds) * (1.0 - nu) ** np.arange(rounds)) ** 2)
    )


def mean_estimation_ratio(lr: float) -> float:
    """Stationary error of estimating a mean with nu = lr, over that with independent noise.

    The step theta <- theta - lr (theta - u + noise) has error lr^2 gamma^4 at nu = lr, which is
    the optimum, and lr / (2 - lr) under independent noise, in units of G^2 / (2 rho).

    Args:
        lr: in (0, 1].

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        It is 1 at lr = 1, below 1 elsewhere, and falls to 0 with lr.
    """
    if not 0 < lr <= 1:
        raise refusal("mean_estimation_ratio", "lr", "in (0, 1]", lr, "Use 0.1.")
    return lr * (2 - lr) * nu_square_sensitivity(lr) ** 2
