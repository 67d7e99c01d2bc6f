"""Sampling: the law by which units are drawn, and the selection that draws a cohort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

State = TypeVar("State")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How units are drawn for a round or a batch: public, and all that an accountant relies on.

    poisson      each independently, with `sampling_prob` every time
    grouped      as poisson, but in turn: every `groups`-th round, with `groups` times the chance
    fixed        a fixed number, every set of that size equally likely
    shuffled     each exactly `passes` times, in a fresh random order
    ordered      each exactly `passes` times, always in the same order
    cyclic       in turn: never twice within population / cohort rounds
    replacement  drawn with replacement
    chosen       by a rule that looks at the data

    sampling_prob: of an example in a step; that of a client is cohort / population.
    overflow: upper bound on the probability that a Poisson batch of a step is truncated.
    most: the largest Poisson cohort; of a larger one a random subset is kept.
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
    """The inputs of a selection in one round.

    scores: asks every client for the mean loss of the server's model on the client's examples;
        gives [population], NaN for clients without a reply. The run counts this traffic.
    """

    population: int
    cohort: int
    rounds: int
    round_num: int
    stream: np.random.Generator
    scores: Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Selection(Generic[State]):
    """How the cohort of a round is selected.

    sampling: its law, for privacy accounting; a fixed-size cohort is not Poisson.
    init: population -> state, tensors.
    choose: (state, draw) -> distinct client numbers, and the new state.
    """

    name: str
    sampling: Sampling
    init: Callable[[int], State]
    choose: Callable[[State, Draw], tuple[Sequence[int], State]]


class Everyone(NamedTuple):
    """Public facts of a population: clients' numbers of examples [m], and sampling_prob of each."""

    num_examples: Tensor
    sampling_prob: float
