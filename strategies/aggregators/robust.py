"""Byzantine-robust aggregators: the server's step is right although some updates are Byzantine.

Papers
    Yin, Chen, Ramchandran, Bartlett. "Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates". ICML 2018. arXiv:1803.01498 (coordinate median, trimmed mean).
    Blanchard, El Mhamdi, Guerraoui, Stainer. "Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent". NeurIPS 2017. arXiv:1703.02757 (Krum, multi-Krum).
    Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan. "Robust Collaborative Learning with Linear
    Gradient Overhead". ICML 2023. arXiv:2209.10931 (nearest-neighbour averaging).

Notation
    u_1 .. u_s the updates of a round    s their number    f byzantine    m keep
    ||.|| the norm over all tensors together

Algorithm
    coordinate_median       1  each coordinate: the median of its s values; of an even number, the
                               mean of the middle two
    trimmed_mean(f)         2  each coordinate: the mean without the f largest and f smallest
    multi_krum(f, m)        3  score_i = sum of ||u_i - u_j||^2 over the s - f - 2 nearest other u_j
                            4  the mean of the m updates with the lowest scores;  krum(f): m = 1
    nearest_neighbours(f)   5  r = the coordinate median
                            6  the mean of the s - f updates with the least ||u_i - r||

Assumptions
    At most f of the s updates are Byzantine, and s is large enough:

    coordinate_median  s >= 1, honest ones the majority     trimmed_mean        s >= 2 f + 1
    krum, multi_krum   s >= 2 f + 3 and s >= m + f          nearest_neighbours  s >= 2 f + 1

    The cohort's size is checked before the run.  Where fewer replies arrive (Poisson cohorts, empty
    clients, lost replies), the round rejects every reply and changes neither the server nor the
    clients: a smaller f would guarantee less than was asked for.  Whether f is right cannot be
    checked.

Deviations
    Clients are not weighted: the number of examples is only what a client claims.  Line 1 is Yin's
    for gradients of one step; here u_i is what a client's local work changed, as usual in federated
    learning.  Line 4: m is s - f unless given, as in Blanchard's experiments.  Lines 5 and 6: MoNNA
    has no server; each client averages the n - 2 f models nearest to its own among n - f that
    arrived.  The server has no update of its own to trust, so it takes the coordinate median, and
    as all s have arrived, it leaves out f.  Ties go to the update that arrived first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import at_least
from fedsim.core.scenario import Aggregator
from fedsim.core.trees import Tree
from strategies.aggregators._gather_all import Gathered, gather_all

_BLOCK = 1 << 20  # numbers that are sorted, or turned to double precision, at once


def coordinate_median() -> Aggregator[Gathered]:
    """The median of every coordinate (line 1).

    Guarantees:
        Each coordinate is between two honest ones as long as the honest are the majority.
    """
    return gather_all("median", lambda stack, num_examples: _median(stack))


def trimmed_mean(*, byzantine: int) -> Aggregator[Gathered]:
    """The mean of every coordinate without its largest and smallest values (line 2).

    Args:
        byzantine: f, how many are dropped at either end, >= 0.

    Raises:
        InputError: byzantine is negative.

    Guarantees:
        With f = 0 it is the plain mean.
        Each coordinate is between two honest ones as long as at most f updates are Byzantine.
    """
    _check("trimmed_mean", byzantine)

    def combine(stack: Tree, num_examples: Tensor) -> Tree:
        return _trimmed(stack, byzantine)

    return gather_all(f"trimmed_mean({byzantine})", combine, least=2 * byzantine + 1)


def krum(*, byzantine: int) -> Aggregator[Gathered]:
    """The one update that is nearest to its neighbours (lines 3 and 4).

    Args:
        byzantine: f, >= 0.

    Raises:
        InputError: byzantine is negative.

    Guarantees:
        The result is one of the updates, bit for bit.
    """
    _check("krum", byzantine)
    return _by_score(f"krum({byzantine})", byzantine, keep=1)


def multi_krum(*, byzantine: int, keep: int | None = None) -> Aggregator[Gathered]:
    """The mean of the updates that are nearest to their neighbours (lines 3 and 4).

    Args:
        byzantine: f, >= 0.
        keep: m, >= 1; left out, all but f.

    Raises:
        InputError: byzantine is negative, or keep below 1.

    Guarantees:
        With m = 1 it is Krum.
    """
    _check("multi_krum", byzantine)
    if keep is not None:
        at_least("multi_krum", 1, "Leave it out to keep all but byzantine.", keep=keep)
    name = f"multi_krum({byzantine}{'' if keep is None else f', keep {keep}'})"
    return _by_score(name, byzantine, keep)


def nearest_neighbours(*, byzantine: int) -> Aggregator[Gathered]:
    """The mean of the updates nearest to the coordinate median (lines 5 and 6).

    The server's half of MoNNA; the clients' is `monna`.

    Args:
        byzantine: f, how many of the furthest are left out, >= 0.

    Raises:
        InputError: byzantine is negative.

    Guarantees:
        With f = 0 it is the plain mean.
    """
    _check("nearest_neighbours", byzantine)

    def combine(stack: Tree, num_examples: Tensor) -> Tree:
        away = _squares(trees.subtract(stack, _median(stack)))  # line 5
        return _mean_of(stack, away, len(away) - byzantine)  # line 6

    return gather_all(f"nearest_neighbours({byzantine})", combine, least=2 * byzantine + 1)


def _by_score(name: str, byzantine: int, keep: int | None) -> Aggregator[Gathered]:
    def combine(stack: Tree, num_examples: Tensor) -> Tree:
        apart = _distances(stack).fill_diagonal_(torch.inf)
        s = len(apart)
        scores = apart.sort(dim=1).values[:, : s - byzantine - 2].sum(dim=1)  # line 3
        return _mean_of(stack, scores, s - byzantine if keep is None else keep)  # line 4

    least = max(2 * byzantine + 3, (keep or 0) + byzantine)
    return gather_all(name, combine, least=least)


def _mean_of(stack: Tree, scores: Tensor, count: int) -> Tree:
    """The mean of the `count` rows with the lowest scores, added up in the order of the rows."""
    chosen = scores.argsort(stable=True)[:count].sort().values
    return {name: tensor[chosen].mean(dim=0) for name, tensor in stack.items()}


def _median(stack: Tree) -> Tree:
    """Line 1: what trimming leaves when it takes all but the middle one or two."""
    return _trimmed(stack, (len(next(iter(stack.values()))) - 1) // 2)


def _trimmed(stack: Tree, cut: int) -> Tree:
    """Line 2, with f = cut."""

    def of(tensor: Tensor) -> Tensor:
        s = len(tensor)
        if not cut:
            return tensor.mean(dim=0)
        blocks = torch.split(tensor.unsqueeze(-1).flatten(1), max(1, _BLOCK // s), dim=1)
        middle = [block.sort(dim=0).values[cut : s - cut].mean(dim=0) for block in blocks]
        return torch.cat(middle).reshape(tensor.shape[1:])

    return {name: of(tensor) for name, tensor in stack.items()}


def _distances(stack: Tree) -> Tensor:
    """||u_i - u_j||^2, [s, s], in double precision, from the updates' inner products."""
    inner = _over_blocks(stack, lambda block: block @ block.T)
    own = inner.diagonal()
    return (own.unsqueeze(1) + own - 2 * inner).clamp(min=0)


def _squares(stack: Tree) -> Tensor:
    """||u_i||^2, [s], in double precision: an attacker's may not overflow."""
    return _over_blocks(stack, lambda block: block.square().sum(dim=1))


def _over_blocks(stack: Tree, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum over blocks of all coordinates, [s, b] in double precision, of a function of them."""
    parts = [
        function(block.double())
        for tensor in stack.values()
        for block in torch.split(
            tensor.unsqueeze(-1).flatten(1), max(1, _BLOCK // len(tensor)), dim=1
        )
    ]
    return torch.stack(parts).sum(dim=0)


def _check(who: str, byzantine: int) -> None:
    at_least(who, 0, "Say how many attackers there may be in a round.", byzantine=byzantine)
