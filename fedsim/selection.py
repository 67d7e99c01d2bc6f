"""Selection: who takes part in a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fedsim.types import Draw, Sampling, Selection


class Memoryless(NamedTuple):
    """The state of a selection that keeps none."""


Choose = Callable[[Memoryless, Draw], tuple[Sequence[int], Memoryless]]


def uniform() -> Selection[Memoryless]:
    """A cohort of exactly the asked size, each set of clients equally likely."""

    def choose(state: Memoryless, draw: Draw) -> tuple[Sequence[int], Memoryless]:
        chosen = draw.stream.choice(draw.population, draw.cohort, replace=False)
        return np.sort(chosen).tolist(), state

    return _memoryless("uniform", Sampling(kind="fixed", words=_FIXED), choose)


def poisson() -> Selection[Memoryless]:
    """Each client takes part by itself with probability cohort / population; it may be nobody."""

    def choose(state: Memoryless, draw: Draw) -> tuple[Sequence[int], Memoryless]:
        taken = draw.stream.random(draw.population) < draw.cohort / draw.population
        return np.flatnonzero(taken).tolist(), state

    return _memoryless("poisson", Sampling(kind="poisson", words="Poisson"), choose)


def cyclic() -> Selection[Memoryless]:
    """In turn, by number: cohort after cohort, and round again.

    Guarantees:
        Between two turns of a client lie floor(population / cohort) - 1 rounds or more.
    """

    def choose(state: Memoryless, draw: Draw) -> tuple[Sequence[int], Memoryless]:
        groups = draw.population // draw.cohort  # the last one takes those that are left over
        turn = (draw.round_num - 1) % groups
        stop = draw.population if turn == groups - 1 else (turn + 1) * draw.cohort
        return list(range(turn * draw.cohort, stop)), state

    return _memoryless("cyclic", Sampling(kind="cyclic", words="in turn, always the same"), choose)


_FIXED = "fixed size, without replacement"


def _memoryless(name: str, sampling: Sampling, choose: Choose) -> Selection[Memoryless]:
    return Selection(
        name=name, sampling=sampling, init=lambda population: Memoryless(), choose=choose
    )
