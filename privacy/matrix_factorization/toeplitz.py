"""Lower-triangular Toeplitz matrices as power series: their first columns, float64 [n].

Products and inverses of such matrices are products and inverses of the series c_0 + c_1 x + ...
They are computed by the plain recursion, not by FFT: where all terms have one sign, every
coefficient then has a small relative error, however small it is, and can be compared with others.

Source
    Fichtenberger, Henzinger, Upadhyay. "Constant Matters: Fine-grained Error Bound on
    Differentially Private Continual Observation". ICML 2023. arXiv:2202.11205, for the root.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from scipy.signal import lfilter

Array: TypeAlias = NDArray[np.float64]


def square_root_series(count: int) -> Array:
    """The first `count` coefficients of (1 - x)^(-1/2): the root of the matrix of ones; [count]."""
    k = np.arange(1, count)
    return np.cumprod(np.concatenate([[1.0], (2 * k - 1) / (2 * k)]))


def inverse_root_series(count: int) -> Array:
    """The first `count` coefficients of (1 - x)^(1/2): 1, -1/2, -1/8, ...; [count]."""
    k = np.arange(1, count)
    return np.cumprod(np.concatenate([[1.0], (2 * k - 3) / (2 * k)]))


def count_bands(series: Array) -> int:
    """How many coefficients there are up to the last one that is not zero."""
    (places,) = np.nonzero(series)
    return int(places[-1]) + 1 if len(places) else 0


def pad(series: Array, count: int) -> Array:
    """The series padded with zeros, or truncated, to [count]."""
    return np.concatenate([series, np.zeros(max(0, count - len(series)))])[:count]


def divide(over: Array, under: Array) -> Array:
    """The series over / under, in the length of `over`; under[0] is not 0.

    Guarantees:
        The product of a series and its inverse is 1.
    """
    result: Array = lfilter([1.0], under[: count_bands(under)], over)
    return result


def invert(series: Array) -> Array:
    """The series 1 / c, in the same length; O(n x bands)."""
    return divide(pad(np.ones(1), len(series)), series)


def multiply(first: Array, second: Array) -> Array:
    """The product of two series, in the length of the first."""
    return np.convolve(first, second)[: len(first)]


def to_matrix(series: Array) -> Array:
    """The lower-triangular Toeplitz matrix whose first column it is; [n, n]."""
    result: Array = toeplitz(series, np.zeros(len(series)))
    return result


def is_non_increasing(series: Array) -> bool:
    """Whether it is non-negative and non-increasing (up to rounding of its first term)."""
    return bool(series.min() >= 0 and np.diff(series).max(initial=0.0) <= 1e-15 * series[0])


def non_increasing_majorant(series: Array) -> Array:
    """The smallest non-increasing series that is nowhere below the absolute values; [n].

    Guarantees:
        It is non-increasing, and a non-increasing series is its own majorant.
    """
    return np.maximum.accumulate(np.abs(series)[::-1])[::-1]


def prefix_errors(inverse_strategy: Array) -> Array:
    """The variance of the noise in the sum of the first t + 1 releases, for Z of variance 1; [n].

    Args:
        inverse_strategy: C^-1, its first column [n] or the matrix [n, n].
    """
    prefix = np.cumsum(inverse_strategy, axis=0)  # B = A C^-1
    return np.cumsum(prefix**2) if prefix.ndim == 1 else (prefix**2).sum(axis=1)
