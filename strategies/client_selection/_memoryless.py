"""Selections that keep no state from round to round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedsim.core.sampling import Draw, Sampling, Selection


class Memoryless(NamedTuple):
    """The state of a selection that keeps none."""


Choose = Callable[[Memoryless, Draw], tuple[Sequence[int], Memoryless]]


def memoryless(name: str, sampling: Sampling, choose: Choose) -> Selection[Memoryless]:
    return Selection(
        name=name, sampling=sampling, init=lambda population: Memoryless(), choose=choose
    )
