"""The shape of every correlated noise: a strategy C, its inverse, and how C^-1 Z streams.

A mechanism releases x_t + noise_t, noise = C^-1 Z, Z independent standard normal times the
noise's scale. C applied to the releases is C x + Z: one Gaussian mechanism on C x, of which the
releases are post-processing, whatever x_t was made of the releases before it. Hence

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
    """One correlated noise over a fixed number of rounds.

    name, parameters: with `rounds` they are all that `rebuild` needs; plain values.
    rounds: n. It is part of the guarantee: there is no round after the last.
    coefficients, inverse: first columns [n] of C and C^-1, or all of them [n, n] where C is
        not Toeplitz; float64.
    column_scale: [n], where C is the Toeplitz matrix with its columns divided by them.
    reach: how far back draws are asked for.
    buffers: zero buffers for a vector (or stack) like the given one; () for regenerated noise.
    recurrence: what `step` does at a time within the rounds.

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
            buffers: those of time t; from `self.buffers` at time 0.
            t: an int, or [k] for clients at different times, which the caller keeps in the rounds.
            draw: draw(back) is Z_{t - back}, [..., d]: standard normal, the same whenever asked
                for, and zeros before time 0; asked for up to `self.reach`.

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
        """How far one unit can move C x, in units of one contribution's bound.

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
        """What the noise costs at mu = 1: the root of the mean and of the largest error.

        Both are times the sensitivity, so that scaling C changes neither.
        """
        errors, sens = self.errors(), self.sensitivity(schema).value
        return sens * float(np.sqrt(errors.mean())), sens * float(np.sqrt(errors.max()))


def sum_draws(draw: Draw, weights: Sequence[float], t: Time) -> Tensor:
    """The sum of weights[j] Z_{t - j}; [..., d]. Draws from before time 0 are not asked for."""
    count = len(weights) if isinstance(t, Tensor) else min(len(weights), t + 1)
    noise = draw(0) * weights[0]
    for back in range(1, count):
        noise = torch.add(noise, draw(back), alpha=weights[back])
    return noise


def subtract_weighted(start: Tensor, weights: Sequence[float], buffers: Buffers) -> Tensor:
    """A tensor less the weighted sum of buffers of its shape."""
    for weight, buffer in zip(weights, buffers, strict=True):
        start = torch.add(start, buffer, alpha=-weight)
    return start


def make_zero_buffers(count: int) -> Callable[[Tensor], Buffers]:
    """What makes `count` zero buffers."""
    return lambda like: tuple(torch.zeros_like(like) for _ in range(count))


def freeze(values: Array) -> Array:
    """A copy that nobody can change: a guarantee was computed from it."""
    copy = np.array(values, dtype=np.float64)
    copy.setflags(write=False)
    return copy
