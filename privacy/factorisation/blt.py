"""Buffered linear Toeplitz strategies: a few decaying sums instead of many old outputs.

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

from privacy.factorisation import toeplitz
from privacy.factorisation.checks import refusal, whole
from privacy.factorisation.participation import MinSeparation, sensitivity
from privacy.factorisation.record import (
    Buffers,
    Draw,
    Factorisation,
    Time,
    frozen,
    reduced,
    zeros,
)
from privacy.factorisation.toeplitz import Array


def blt(theta: Sequence[float], omega: Sequence[float], *, rounds: int) -> Factorisation:
    """One buffer for each decay.

    Args:
        theta: decays, different, in (0, 1).
        omega: their weights, >= 0; sum(omega / theta) < 1, so that the inverse decays too, and
            without swinging.
        rounds: n.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        With omega = 0 the noise is independent, bit for bit.
        The inverse is a BLT with the decays and weights of `inverse_of`.
    """
    whole("blt", "State the length of the run.", rounds=rounds)
    _check(theta, omega)
    decays, weights = [float(value) for value in theta], [float(value) for value in omega]

    def recurrence(buffers: Buffers, t: Time, draw: Draw) -> tuple[Tensor, Buffers]:
        noise = reduced(draw(0), weights, buffers)
        pairs = zip(buffers, decays, strict=True)
        return noise, tuple(torch.add(noise, buffer, alpha=decay) for buffer, decay in pairs)

    over, under = _fraction(np.array(decays), np.array(weights))
    return Factorisation(
        name="blt",
        parameters={"theta": decays, "omega": weights},
        rounds=rounds,
        coefficients=frozen(_coefficients(decays, weights, rounds)),
        inverse=frozen(toeplitz.quotient(toeplitz.padded(under, rounds), over)),
        reach=0,
        buffers=zeros(len(decays)),
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


def inverse_of(theta: Sequence[float], omega: Sequence[float]) -> tuple[Array, Array]:
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


def _coefficients(theta: Sequence[float], omega: Sequence[float], rounds: int) -> Array:
    powers = np.array(theta)[:, None] ** np.arange(rounds - 1)
    return np.concatenate([[1.0], np.array(omega) @ powers])


def _fraction(theta: Array, omega: Array) -> tuple[Array, Array]:
    """C as a fraction of two polynomials in x, lowest power first."""
    under = np.poly(theta)  # prod_j (1 - theta_j x), as its powers come from the lowest
    rest = [weight * np.poly(np.delete(theta, j)) for j, weight in enumerate(omega)]
    return under + np.concatenate([[0.0], np.sum(rest, axis=0)]), under


def blt_optimised(
    buffers: int, *, rounds: int, separation: int, participations: int
) -> Factorisation:
    """The BLT of the least largest error, found by BFGS.

    Args:
        buffers: how many; 2 to 4 are enough.
        rounds: n.
        separation: b, the least number of rounds between two participations of a unit.
        participations: k, how often a unit takes part, at most.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        The same arguments give the same parameters.
    """
    whole("blt_optimised", "Use 2.", buffers=buffers)
    whole("blt_optimised", "State the length of the run.", from_=2, rounds=rounds)
    schema = MinSeparation(separation, participations)

    def log_loss(point: Array) -> float:
        theta, omega = _allowed(point)
        over, under = _fraction(theta, omega)
        errors = toeplitz.prefix_errors(toeplitz.quotient(toeplitz.padded(under, rounds), over))
        sens = sensitivity(_coefficients(theta.tolist(), omega.tolist(), rounds), schema).value
        return float(np.log(sens**2 * errors.max()))

    slow = np.geomspace(2 / (rounds + 2), 0.5, buffers)
    start = np.concatenate([np.log1p(-slow) - np.log(slow), np.full(buffers, -1.0)])
    found = minimize(log_loss, start, method="BFGS", options={"gtol": 1e-7})
    theta, omega = _allowed(found.x)
    return blt(theta.tolist(), omega.tolist(), rounds=rounds)


def _allowed(point: Array) -> tuple[Array, Array]:
    """Decays and weights of any point [2 x buffers] of the plane: those `blt` accepts."""
    logits, shares = np.split(point, 2)
    theta = 1 / (1 + np.exp(-logits))
    weights = np.exp(shares)
    return theta, theta * weights / (1 + weights.sum())
