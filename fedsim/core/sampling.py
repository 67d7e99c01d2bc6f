"""Who takes part: the law by which units are drawn, and the selection that draws a cohort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

State = TypeVar("State")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How units come into a round or a batch: public, and all that an accountant may build on.

    poisson      each by itself, with `sampling_prob` every time
    grouped      as poisson, but in turn: every `groups`-th round, with `groups` times the chance
    fixed        so many at once, every set of that size equally likely
    shuffled     each exactly `passes` times, in a fresh random order
    ordered      each exactly `passes` times, always in the same order
    cyclic       in turn: never twice within population / cohort rounds
    replacement  drawn with replacement
    chosen       by what the data say

    sampling_prob: of an example in a step; that of a client is cohort / population.
    overflow: the probability, at most, that a Poisson batch of a step was cut short.
    most: clients of a Poisson cohort, at most; a random subset of a larger one is kept.
    """

    kind: Literal[
        "poisson", "grouped", "fixed", "shuffled", "ordered", "cyclic", "replacement", "chosen"
    ]
    words: str
    sampling_prob: float | None = None
    passes: int | None = None
    overflow: float = 0.0
    most: int | None = None
    groups: int | None = None


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What a selection may look at in one round.

    scores: asks every client for the mean loss of the server's model on its own examples; gives
        [population], NaN where there is no answer. Traffic that a run accounts for.
    """

    population: int
    cohort: int
    rounds: int
    round_num: int
    stream: np.random.Generator
    scores: Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Selection(Generic[State]):
    """Who takes part.

    sampling: its law, for whoever accounts privacy; a fixed-size cohort is not Poisson.
    init: population -> state, tensors.
    choose: (state, draw) -> distinct client numbers, and the new state.
    """

    name: str
    sampling: Sampling
    init: Callable[[int], State]
    choose: Callable[[State, Draw], tuple[Sequence[int], State]]


class Everyone(NamedTuple):
    """What is public of a population: everybody's examples [m], a client's chance to be asked."""

    num_examples: Tensor
    sampling_prob: float
