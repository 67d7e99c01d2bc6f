"""FedSVD: the server writes each product B A anew, with orthonormal rows in A, after averaging B.

Paper
    Lee, Park, Lee, Wagner, Seong, Bocklet, Lee, Hwang. "FedSVD: Adaptive Orthogonalization for
    Private Federated Learning with LoRA". NeurIPS 2025. arXiv:2505.12805.

Notation
    W0 + s B A an adapted matrix    A [r, q]    B [p, r]    Q_b, Q_a thin orthonormal factors

Algorithm
    1  A random, B = 0;  for t = 1..T:
    2      one round of FFA-LoRA: B <- B + sum_i p_i (B_i - B), A held
    3      if period divides t:
    4          B = Q_b R_b,  A^T = Q_a R_a              thin QR
    5          U S V^T = R_b R_a^T                      SVD of r x r
    6          B <- Q_b U S,  A <- (Q_a V)^T
    7          make the largest entry of each row of A positive, and turn B's columns with them

Deviations
    Lines 4 to 6 give the same B A as the paper's SVD of the whole p x q matrix, in O((p + q) r^2)
    and in float64, and are right where that is not: for B = 0, and for B A of a rank below r, A
    stays in the span of its old rows.  Line 7 makes the result one of 2^r.  Line 3 counts the
    rounds in which the server used a reply.  A is sent in every round (see ffa_lora).

Lines 4 to 7 change neither the model nor the span of A's rows: they turn A and B within it. Plain
SGD, clipping and Gaussian noise do not see a rotation, so after the first time FedSVD with SGD
learns what FFA-LoRA learns from an A with orthonormal rows (docs/guides/lora.md); Adam does see it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedsim.core.errors import at_least
from fedsim.core.scenario import AnyStrategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from fedsim.core.updates import Released
from fedsim.models.lora import a_of, adapters, b_of, needs_adapters
from strategies.fedavg import Server as Plain
from strategies.ffa_lora import ffa_lora


class Server(NamedTuple):
    """params: A's, B's and what else is learned; rounds: how many were used, int64 []."""

    params: Tree
    rounds: Tensor


def fedsvd(*, steps: StepRule[Any], period: int | None = 1, server_lr: float = 1.0) -> AnyStrategy:
    """FFA-LoRA whose server re-orthogonalises A by the SVD of each product B A.

    Args:
        steps: how a client moves.
        period: rounds from one SVD to the next (line 3); None is never.
        server_lr: how far the server follows the mean update, > 0.

    Raises:
        InputError: period is below 1, or server_lr is not above 0. (At the start of a run:) the
            task has no adapters.

    Guarantees:
        With period None it equals FFA-LoRA.
        An SVD changes no product B A, and A's rows are orthonormal after it.
        With plain SGD it learns the products of FFA-LoRA from an A with orthonormal rows.
    """
    if period is not None:
        at_least("fedsvd", 1, "Use 1, or None for never.", period=period)
    base = ffa_lora(steps=steps, server_lr=server_lr)

    def init(params: Tree) -> Server:
        device = next(iter(params.values())).device
        return Server(params, torch.zeros((), dtype=torch.int64, device=device))

    def update(server: Server, released: Released) -> Server:
        params = base.update(Plain(server.params), released).params  # line 2
        rounds = server.rounds + 1
        if period is not None and int(rounds) % period == 0:  # line 3
            params = refactored(params)
        return Server(params, rounds)

    return replace(
        base, name="fedsvd", init=init, update=update, objection=needs_adapters("fedsvd")
    )


def refactored(params: Tree) -> Tree:
    """Lines 4 to 7 for every adapter of a tree; everything else as it was."""
    new = dict(params)
    for path in adapters(params):
        new[a_of(path)], new[b_of(path)] = orthogonalised(params[a_of(path)], params[b_of(path)])
    return new


def orthogonalised(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A [r, q] and B [p, r] with the same product, r <= p and q, by lines 4 to 7.

    Guarantees:
        B A is what it was; A's rows are orthonormal; B's columns are orthogonal, longest first.
        B = 0 stays 0, and A's rows span what they spanned, whatever the rank of B.
        A second time changes nothing.
    """
    q_b, r_b = torch.linalg.qr(b.double())  # line 4
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, s, v_t = torch.linalg.svd(r_b @ r_a.T)  # line 5
    new_b, new_a = q_b @ u * s, v_t @ q_a.T  # line 6
    largest = new_a.abs().argmax(dim=1, keepdim=True)  # line 7
    signs = new_a.gather(1, largest).sign()
    return (signs * new_a).to(a.dtype), (new_b * signs.T).to(b.dtype)
