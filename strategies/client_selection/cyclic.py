"""Cyclic selection: clients take turns in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.core.sampling import Draw, Sampling, Selection
from strategies.client_selection._memoryless import Memoryless, memoryless


def cyclic() -> Selection[Memoryless]:
    """Take clients in the order of their numbers, cohort after cohort, and start again.

    Guarantees:
        Between two turns of a client there are at least floor(population / cohort) - 1 rounds.
    """

    def choose(state: Memoryless, draw: Draw) -> tuple[Sequence[int], Memoryless]:
        groups = draw.population // draw.cohort  # the last one takes those that are left over
        turn = (draw.round_num - 1) % groups
        stop = draw.population if turn == groups - 1 else (turn + 1) * draw.cohort
        return list(range(turn * draw.cohort, stop)), state

    return memoryless("cyclic", Sampling(kind="cyclic", words="in turn, always the same"), choose)
