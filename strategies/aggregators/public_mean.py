"""The mean with a public denominator: bounded sensitivity, for client-level privacy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import positive
from fedsim.core.sampling import Everyone
from fedsim.core.scenario import Aggregator
from fedsim.core.trees import Tree
from fedsim.core.updates import Aggregate, Bounded


class Votes(NamedTuple):
    """A running weighted sum, and the sum of the votes."""

    total: Tree
    votes: Tensor


def public_mean(full: float | None = None) -> Aggregator[Votes]:
    """The sum of the updates over its expected weight: sum_k w_k diff_k / (q W).

    q is the sampling probability of a client and W the weight of the whole population, both public:
    one client's update of norm 1 moves it by at most 1 / (q W), whichever clients take part.

    Args:
        full: the number of examples that give a client full weight: w = min(examples / full, 1).
            Left out, every client that has examples counts 1.

    Raises:
        InputError: full is not above 0.

    Guarantees:
        A client that does not reply counts as one whose update is zero.
        A round without clients gives an aggregate of zeros.

    Source: McMahan et al. (2018), "Learning differentially private recurrent language models",
        arXiv:1710.06963, the estimator with a fixed denominator.
    """
    if full is not None:
        positive("public_mean", "Leave it out, and every client counts 1.", full=full)

    def weigh(num_examples: Tensor) -> Tensor:
        numbers = num_examples.to(torch.float32)
        return (numbers / (full or 1)).clamp(max=1) if full else (numbers > 0).to(numbers.dtype)

    def init(like: Tree) -> Votes:
        device = next(iter(like.values())).device
        return Votes(trees.zeros_like(like), torch.zeros((), device=device))

    def add(state: Votes, bounded: Bounded) -> Votes:
        total = trees.add_weighted_(state.total, bounded.diff, weigh(bounded.num_examples))
        votes = state.votes if bounded.votes is None else state.votes + bounded.votes.sum()
        return Votes(total, votes)

    def finish(state: Votes, everyone: Everyone) -> Aggregate | None:
        expected = everyone.sampling_prob * float(weigh(everyone.num_examples).sum())
        if not expected > 0:
            return None
        return Aggregate(
            trees.scale(state.total, 1 / expected),
            l2_sensitivity=1 / expected,
            share=everyone.sampling_prob,
            votes=state.votes,
            expected=everyone.sampling_prob * float((everyone.num_examples > 0).sum()),
        )

    return Aggregator(
        name="public_mean" if full is None else f"public_mean(full={full:g})",
        init=init,
        add=add,
        finish=finish,
        public=True,
    )
