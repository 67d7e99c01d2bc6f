"""Selection: who takes part in a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fedsim.types import Draw, Selection


class Memoryless(NamedTuple):
    """The state of a selection that keeps none."""


Choose = Callable[[Memoryless, Draw], tuple[Sequence[int], Memoryless]]


def uniform() -> Selection[Memoryless]:
    """A cohort of exactly the asked size, each set of clients equally likely."""

    def choose(state: Memoryless, draw: Draw) -> tuple[Sequence[int], Memoryless]:
        chosen = draw.stream.choice(draw.population, draw.cohort, replace=False)
        return np.sort(chosen).tolist(), state

    return _memoryless("uniform", "fixed size, without replacement", choose)


def poisson() -> Selection[Memoryless]:
    """Each client takes part by itself with probability cohort / population; it may be nobody."""

    def choose(state: Memoryless, draw: Draw) -> tuple[Sequence[int], Memoryless]:
        taken = draw.stream.random(draw.population) < draw.cohort / draw.population
        return np.flatnonzero(taken).tolist(), state

    return _memoryless("poisson", "Poisson", choose)


def _memoryless(name: str, sampling: str, choose: Choose) -> Selection[Memoryless]:
    return Selection(
        name=name, sampling=sampling, init=lambda population: Memoryless(), choose=choose
    )
