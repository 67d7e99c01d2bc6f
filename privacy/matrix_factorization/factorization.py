"""The record of a matrix factorization: a strategy C, its inverse, and how to stream C^-1 Z.

A mechanism releases x_t + noise_t, noise = C^-1 Z, Z independent standard normal times the
noise's scale. C applied to the releases is C x + Z: one Gaussian mechanism on C x, of which the
releases are post-processing, also where x_t depends on earlier releases. Hence

    mu = sensitivity(C, participation) / noise multiplier

Source
    Denisov, McMahan, Rush, Smith, Thakurta. "Improved Differential Privacy for SGD via Optimal
    Private Linear Operators on Adaptive Streams". NeurIPS 2022. arXiv:2202.08312.

Shapes: n rounds, d coordinates, k clients. Time t counts from 0: an int with vectors [d], or
int64 [k] with stacks [k, d].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from privacy.matrix_factorization import toeplitz
from privacy.matrix_factorization.participation import Participation, Sensitivity, sensitivity
from privacy.matrix_factorization.toeplitz import Array
from privacy.validate import refusal

Buffers: TypeAlias = tuple[Tensor, ...]
Time: TypeAlias = int | Tensor
Draw: TypeAlias = Callable[[int], Tensor]
Recurrence: TypeAlias = Callable[[Buffers, Time, Draw], tuple[Tensor, Buffers]]
Parameters: TypeAlias = dict[str, float | int | list[float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Factorization:
    """Correlated noise for a fixed number of rounds.

    name, parameters: together with `rounds` the input of `rebuild`; plain values.
    rounds: n. It is part of the guarantee: no round may follow the last.
    coefficients, inverse: first columns [n] of C and C^-1, or the matrices [n, n] where C is
        not Toeplitz; float64.
    column_scale: [n], where C is the Toeplitz matrix with its columns divided by these norms.
    reach: how many rounds back `step` needs draws of Z.
    buffers: makes zero buffers for a vector (or stack) like the given one; () for stateless noise.
    recurrence: the computation of `step`.

    Guarantees:
        C C^-1 is the identity.
        The covariance of the streamed noise is (C^T C)^-1.
        Stored buffers continue the same stream.
        A client in a stack gets the noise that it gets alone.
    """

    name: str
    parameters: Parameters
    rounds: int
    coefficients: Array
    inverse: Array
    column_scale: Array | None = None
    reach: int
    buffers: Callable[[Tensor], Buffers]
    recurrence: Recurrence

    def step(self, buffers: Buffers, t: Time, draw: Draw) -> tuple[Tensor, Buffers]:
        """The noise at time t, and the buffers for the next time.

        Args:
            buffers: the buffers at time t; those of `self.buffers` at time 0.
            t: an int, or [k] for clients at different times, whose range the caller checks.
            draw: draw(back) is Z_{t - back}, [..., d]: standard normal, the same at every call,
                and zeros before time 0; `back` is at most `self.reach`.

        Raises:
            PrivacyError: t is an int outside the rounds.
        """
        if not isinstance(t, Tensor) and not 0 <= t < self.rounds:
            rule = f"at least 0 and below {self.rounds}, the rounds it was made for"
            raise refusal(self.name, "t", rule, t, "Plan all rounds before the first.")
        return self.recurrence(buffers, t, draw)

    @property
    def strategy(self) -> Array:
        """C, as `sensitivity` takes it: [n] where it is Toeplitz, else [n, n]."""
        if self.column_scale is None:
            return self.coefficients
        return toeplitz.to_matrix(self.coefficients) / self.column_scale

    def sensitivity(self, schema: Participation) -> Sensitivity:
        """The sensitivity of C x to one unit, in units of the bound on one contribution.

        Raises:
            PrivacyError: the schema does not describe these rounds.
        """
        return sensitivity(self.strategy, schema)

    def errors(self) -> Array:
        """The variance of the noise in the sum of the first t + 1 releases; [n]."""
        if self.column_scale is None:
            return toeplitz.prefix_errors(self.inverse)
        return toeplitz.prefix_errors(self.column_scale[:, None] * toeplitz.to_matrix(self.inverse))

    def loss(self, schema: Participation) -> tuple[float, float]:
        """The root of the mean and of the maximum error at mu = 1.

        Both are times the sensitivity, so that scaling C changes neither.
        """
        errors, sens = self.errors(), self.sensitivity(schema).value
        return sens * float(np.sqrt(errors.mean())), sens * float(np.sqrt(errors.max()))


def sum_draws(draw: Draw, weights: Sequence[float], t: Time) -> Tensor:
    """The sum of weights[j] Z_{t - j}; [..., d]. Draws before time 0 are skipped."""
    count = len(weights) if isinstance(t, Tensor) else min(len(weights), t + 1)
    noise = draw(0) * weights[0]
    for back in range(1, count):
        noise = torch.add(noise, draw(back), alpha=weights[back])
    return noise


def subtract_weighted(start: Tensor, weights: Sequence[float], buffers: Buffers) -> Tensor:
    """A tensor minus the weighted sum of buffers of its shape."""
    for weight, buffer in zip(weights, buffers, strict=True):
        start = torch.add(start, buffer, alpha=-weight)
    return start


def make_zero_buffers(count: int) -> Callable[[Tensor], Buffers]:
    """A function that makes `count` zero buffers like a tensor."""
    return lambda like: tuple(torch.zeros_like(like) for _ in range(count))


def freeze(values: Array) -> Array:
    """A read-only copy, because guarantees are computed from it."""
    copy = np.array(values, dtype=np.float64)
    copy.setflags(write=False)
    return copy
