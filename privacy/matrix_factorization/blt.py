"""Buffered linear Toeplitz (BLT) strategies: a few decaying sums in place of many old outputs.

    c_0 = 1,  c_k = sum_j omega_j theta_j^(k-1)
    noise_t = Z_t - sum_j omega_j S_j;    S_j <- theta_j S_j + noise_t

Sources
    Dvijotham, McMahan, Pillutla, Steinke, Thakurta. "Efficient and Near-Optimal Noise Generation
    for Streaming Differential Privacy". FOCS 2024. arXiv:2404.16706.
    McMahan, Xu, Zhang. "A Hassle-free Algorithm for Private Learning in Practice: Don't Use Tree
    Aggregation, Use BLTs". EMNLP 2024. arXiv:2408.08868.
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

MOST_DECAY = 1 - 1e-9  # the optimiser's upper limit for a decay factor


def blt(theta: Sequence[float], omega: Sequence[float], *, rounds: int) -> Factorization:
    """A BLT strategy with one buffer for each decay.

    Args:
        theta: decays, different, in (0, 1).
        omega: their weights, >= 0; sum(omega / theta) < 1, so that the inverse also decays,
            without oscillating.
        rounds: n.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        With omega = 0 the noise is independent, bit for bit.
        The inverse is a BLT with the decays and weights of `invert_blt`.
    """
    whole_numbers("blt", "State the length of the run.", rounds=rounds)
    _check(theta, omega)
    decays, weights = [float(value) for value in theta], [float(value) for value in omega]

    def recurrence(buffers: Buffers, t: Time, draw: Draw) -> tuple[Tensor, Buffers]:
        noise = subtract_weighted(draw(0), weights, buffers)
        pairs = zip(buffers, decays, strict=True)
        return noise, tuple(torch.add(noise, buffer, alpha=decay) for buffer, decay in pairs)

    c, inverse = _series(np.array(decays), np.array(weights), rounds)
    return Factorization(
        name="blt",
        parameters={"theta": decays, "omega": weights},
        rounds=rounds,
        coefficients=freeze(c),
        inverse=freeze(inverse),
        reach=0,
        buffers=make_zero_buffers(len(decays)),
        recurrence=recurrence,
    )


def _check(theta: Sequence[float], omega: Sequence[float]) -> None:
    if not theta or len(theta) != len(omega):
        raise refusal("blt", "omega", f"{len(theta) or 1} numbers", omega, "Give one a decay.")
    if not all(0 < value < 1 for value in theta):
        raise refusal("blt", "theta", "in (0, 1)", theta, "Use 0.99 and 0.6.")
    if len(set(theta)) < len(theta):
        raise refusal("blt", "theta", "different", theta, "Add up the weights of equal decays.")
    if not all(value >= 0 for value in omega):
        raise refusal("blt", "omega", ">= 0", omega, "Use 0.2.")
    total = sum(weight / decay for decay, weight in zip(theta, omega, strict=True))
    if not total < 1:
        raise refusal("blt", "sum(omega / theta)", "< 1", total, "Scale omega down.")


def invert_blt(theta: Sequence[float], omega: Sequence[float]) -> tuple[Array, Array]:
    """The decays and weights of C^-1, largest decay first; weights are negative.

    Source: arXiv:2408.08868, lemma on the inverse; decays are the eigenvalues of
    diag(theta) - omega 1^T, weights the residues there.
    """
    decays = np.array(theta, dtype=np.float64)
    roots = np.linalg.eigvals(np.diag(decays) - np.outer(omega, np.ones_like(decays)))
    hats = np.sort(roots.real)[::-1]
    over = np.prod(hats[:, None] - decays, axis=1)
    under = np.prod(hats[:, None] - hats + np.eye(len(hats)), axis=1)
    return hats, over / under


def _series(theta: Array, omega: Array, rounds: int) -> tuple[Array, Array]:
    """The first columns of C and C^-1, by way of C as a fraction of two polynomials."""
    c = np.concatenate([[1.0], omega @ theta[:, None] ** np.arange(rounds - 1)])
    under = np.poly(theta).astype(np.float64)  # prod_j (1 - theta_j x), its lowest power first
    over = under.copy()
    for j, weight in enumerate(omega):
        over[1:] += weight * np.poly(np.delete(theta, j))
    return c, toeplitz.divide(toeplitz.pad(under, rounds), over)


def blt_optimised(
    buffers: int, *, rounds: int, separation: int, participations: int, error: Error = "max"
) -> Factorization:
    """A BLT at a local minimum of the loss, found by BFGS.

    Args:
        buffers: how many; 2 come within a few percent of the best banded strategy.
        rounds: n, at least 2.
        separation: b, the least number of rounds between two participations of a unit.
        participations: k, how often a unit takes part, at most.
        error: the error of the prefix sums to minimise, "mean" or "max".

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        The same arguments give the same parameters.
    """
    schema = MinSeparation(separation, participations)
    whole_numbers("blt_optimised", "Use 2.", buffers=buffers)
    whole_numbers("blt_optimised", "State the length of the run.", from_=2, rounds=rounds)
    check_error("blt_optimised", error)
    age = np.arange(rounds - 1)

    def loss(point: Array) -> tuple[float, Array]:
        ratios, theta, shares = _decode(point)
        omega = theta * shares
        c, inverse = _series(theta, omega, rounds)
        value, gradient = log_loss(c, inverse, schema, error)
        by_omega = theta[:, None] ** age @ gradient[1:]
        by_decay = (age * theta[:, None] ** np.maximum(age - 1, 0)) @ gradient[1:]
        # omega is theta times a share, and a theta is the product of the ratios up to its own
        pull = theta * (omega * by_decay + shares * by_omega)
        by_logit = (1 - ratios / MOST_DECAY) * np.cumsum(pull[::-1])[::-1]
        by_log = shares * (theta * by_omega - (theta * by_omega) @ shares)
        return value, np.concatenate([by_logit, by_log])

    ratios = np.linspace(0.99, 0.5, buffers)
    start = np.concatenate([np.log(ratios / (1 - ratios)), np.full(buffers, -1.0)])
    result = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-8})
    _, theta, shares = _decode(result.x)
    return blt(theta.tolist(), (theta * shares).tolist(), rounds=rounds)


def _decode(point: Array) -> tuple[Array, Array, Array]:
    """Map any point [2 x buffers] to valid parameters: ratios, decays, shares omega / theta.

    Each decay is the one before it times a ratio below 1: they differ, and keep their order.
    """
    logits, logs = point.reshape(2, -1)
    ratios: Array = MOST_DECAY / (1 + np.exp(-logits))
    weights = np.exp(logs)
    theta: Array = np.multiply.accumulate(ratios)
    return ratios, theta, weights / (1 + weights.sum())
