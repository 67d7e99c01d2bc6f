"""Poisson selection: every client is drawn independently; also in groups that take turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.core.errors import InputError, at_least
from fedsim.core.sampling import Draw, Sampling, Selection
from strategies.client_selection._memoryless import Memoryless, memoryless


def poisson(most: int | None = None) -> Selection[Memoryless]:
    """Each client takes part independently with probability cohort / population; perhaps none.

    Args:
        most: a larger cohort is cut to a random subset of this size; None is no limit.

    Raises:
        InputError: most is below 1.
    """
    if most is not None:
        at_least("poisson", 1, "Leave it out for no limit.", most=most)

    def choose(state: Memoryless, draw: Draw) -> tuple[Sequence[int], Memoryless]:
        taken = np.flatnonzero(draw.stream.random(draw.population) < draw.cohort / draw.population)
        if most is not None and len(taken) > most:
            taken = np.sort(draw.stream.choice(taken, most, replace=False))
        return taken.tolist(), state

    words = "Poisson" if most is None else f"Poisson, {most} at most"
    return memoryless("poisson", Sampling(kind="poisson", words=words, most=most), choose)


def poisson_groups(groups: int) -> Selection[Memoryless]:
    """Client i may take part in every `groups`-th round only, with probability groups q.

    q is cohort / population, so that cohorts are as large as those of `poisson` on average.

    Raises:
        InputError: groups is below 1. (In a run:) groups q is above 1.

    Guarantees:
        Between two turns of a client there are at least groups - 1 rounds.

    Source: Choquette-Choo et al. (2023), arXiv:2306.08153, algorithm 2.
    """
    at_least("poisson_groups", 1, "Use the number of bands.", groups=groups)

    def choose(state: Memoryless, draw: Draw) -> tuple[Sequence[int], Memoryless]:
        chance = groups * draw.cohort / draw.population
        if chance > 1:
            raise InputError(
                f"poisson_groups: groups must be at most population / cohort; got {groups}. Ask "
                "fewer clients a round, or make fewer groups."
            )
        taken = np.flatnonzero(draw.stream.random(draw.population) < chance)
        turn = (draw.round_num - 1) % groups
        return taken[taken % groups == turn].tolist(), state

    sampling = Sampling(kind="grouped", words=f"Poisson in {groups} groups by turns", groups=groups)
    return memoryless(f"poisson_groups({groups})", sampling, choose)
