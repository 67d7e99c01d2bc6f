"""Tree aggregation: every prefix sum is the sum of at most log2(n) + 1 noisy nodes. A baseline.

Count rounds from 1. Node i of a binary indexed tree sums the low(i) rounds up to i, low(i) the
largest power of two that divides i; a prefix is released as the sum of the nodes of its binary
digits. Each round closes one node, so that C is square, and the noise of one round,

    noise_i = Z_i - sum of Z_{i - 2^j} over 2^j < low(i),

cancels the noise of the nodes below node i and adds its own. No node is stored.

Sources
    Kairouz, McMahan, Song, Thakkar, Thakurta, Xu. "Practical and Private (Deep) Learning without
    Sampling or Shuffling". ICML 2021. arXiv:2103.00039.
    Dwork, Naor, Pitassi, Rothblum (2010); Chan, Shi, Song (2011), for the mechanism.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from privacy.matrix_factorization.factorization import (
    Buffers,
    Draw,
    Factorization,
    Time,
    freeze,
    make_zero_buffers,
)
from privacy.matrix_factorization.toeplitz import Array
from privacy.validate import whole_numbers

MOST_ROUNDS = 5000  # the matrix is dense: 200 MB


def tree(*, rounds: int, period: int | None = None) -> Factorization:
    """Tree aggregation, restarted every `period` rounds.

    Args:
        rounds: n, at most 5000.
        period: rounds of one tree, such as an epoch; None means one tree for all rounds.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        A single participation has sens^2 = floor(log2 n) + 1.
        With a tree an epoch, E epochs have sens^2 = E (floor(log2 n_e) + 1), exactly.
        The noise of a prefix is the sum of as many draws as its length has binary ones.
    """
    whole_numbers("tree", "Use square_root.", up_to=MOST_ROUNDS, rounds=rounds)
    whole_numbers(
        "tree", "State the rounds of an epoch.", period=rounds if period is None else period
    )
    length = rounds if period is None else min(period, rounds)
    levels = length.bit_length()

    def recurrence(buffers: Buffers, t: Time, draw: Draw) -> tuple[Tensor, Buffers]:
        noise, count = draw(0), t % length + 1
        for level in range(1, levels):
            closes = count % 2**level == 0
            if isinstance(closes, Tensor):
                below = draw(2 ** (level - 1))
                noise = torch.where(closes.unsqueeze(-1), noise - below, noise)
            elif closes:
                noise = noise - draw(2 ** (level - 1))
        return noise, buffers

    c, b = _matrices(rounds, length)
    return Factorization(
        name="tree",
        parameters={} if period is None else {"period": period},
        rounds=rounds,
        coefficients=freeze(c),
        inverse=freeze(b),
        reach=2 ** (levels - 2) if levels > 1 else 0,
        buffers=make_zero_buffers(0),
        recurrence=recurrence,
    )


def _matrices(rounds: int, length: int) -> tuple[Array, Array]:
    """C, whose row i is 1 at the rounds that node i sums, and C^-1; [n, n] each."""
    c, b = np.zeros((rounds, rounds)), np.eye(rounds)
    for t in range(rounds):
        count = t % length + 1
        low = count & -count
        c[t, t + 1 - low : t + 1] = 1
        b[t, [t - 2**level for level in range(low.bit_length() - 1)]] = -1
    return c, b
