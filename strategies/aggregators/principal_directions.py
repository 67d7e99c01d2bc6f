"""Principal directions, the server half of FedLD: a vote for each direction of the updates.

Paper
    Zeng, Guo, Wang, Wang, Zhou, Qu. "Tackling Data Heterogeneity in Federated Learning via Loss
    Decomposition". MICCAI 2024. arXiv:2408.12300; the formulas are those of the authors' code. The
    client half is `strategies/fedld.py`.

Notation
    g_i client i's diff of one tensor, flattened [d]    G rows g_i, [s, d]
    s clients of the cohort    kappa part of the directions that are kept

Algorithm
    2  for each parameter tensor:
    3      Q = G G^T = sum_j q_j e_j e_j^T,  q_1 >= q_2 >= ...;  k = max(1, floor(kappa s))
    4      v_j = G^T e_j / sqrt(q_j);  w_j = q_j / sum_l q_l
    5      r_i = ||g_i|| sum_{j <= k} w_j sign(<g_i, v_j>) v_j
    6      x <- x + mean_i r_i

Deviations
    The code's k is 0 for one client, its w_j are 0 / 0 where nothing moved, and it rotates whatever
    is in a state_dict.  Here k is at least 1; a tensor that did not move or has one element is
    averaged; a direction with q_j <= 1e-10 q_1 is dropped.  Lines 4 to 6 are one product G^T a,
    from the s x s matrix Q alone: <g_i, v_j> has the sign of e_j's entry i.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedsim.core.errors import InputError
from fedsim.core.scenario import Aggregator
from fedsim.core.trees import Tree
from strategies.aggregators._gather_all import Gathered, gather_all

_DEGENERATE = 1e-10


def principal_directions(kappa: float = 0.8) -> Aggregator[Gathered]:
    """The server half of FedLD: a majority vote for each principal direction of the updates.

    Clients are not weighted. Memory O(cohort x d); the decomposition is of a cohort x cohort
    matrix for each tensor.

    Raises:
        InputError: kappa is outside (0, 1].

    Guarantees:
        It agrees with the loop over clients and directions of lines 4 to 6.
        Identical updates give that update; two opposite ones give zero; one gives itself.
        The order of the clients does not matter.
    """
    if not 0 < kappa <= 1:
        raise InputError(f"principal_directions: kappa must be in (0, 1]; got {kappa}. Use 0.8.")

    def combine(stack: Tree, num_examples: Tensor) -> Tree:
        return {name: _directed(value, kappa) for name, value in stack.items()}

    return gather_all(f"principal_directions({kappa:g})", combine)


def _directed(stack: Tensor, kappa: float) -> Tensor:
    """Lines 3 to 6 for one tensor of all clients, [s, ...] -> [...]."""
    s, g = len(stack), stack.unsqueeze(-1).flatten(1)
    plain = stack.mean(dim=0)
    if g.shape[1] == 1:
        return plain
    wide = g.double()
    q, e = torch.linalg.eigh(wide @ wide.T)  # line 3, ascending
    q, e = q.flip(0).clamp(min=0), e.flip(1)
    kept = torch.arange(s, device=q.device) < max(1, math.floor(kappa * s))
    kept = kept & (q > _DEGENERATE * q[0])
    lengths = wide.norm(dim=1)
    signs = torch.where(wide.new_tensor(_DEGENERATE) < e.abs(), e.sign(), 0)  # of <g_i, v_j>
    votes = lengths @ signs / s  # [s], line 6's mean of ||g_i|| sign(<g_i, v_j>)
    explained = q / q.sum()
    weights = torch.where(kept, explained * votes / q.sqrt(), 0)
    moved = (e @ weights) @ wide  # G^T a
    return torch.where(q[0] > 0, moved.to(stack.dtype).reshape(plain.shape), plain)
