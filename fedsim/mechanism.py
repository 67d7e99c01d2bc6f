"""What clients send, how it changes type on its way to the server, and what a mechanism is.

Shapes: k clients of a chunk, b examples of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from torch import Generator, Tensor

from fedsim.ledger import Account, Entry

if TYPE_CHECKING:
    from fedsim.oracle import Asked
    from fedsim.tasks import Task
    from fedsim.types import Penalty, Scenario

Tree = dict[str, Tensor]
"""Parameters, or anything with the same keys. A stack is a tree of tensors [k, ...]."""

State = TypeVar("State")
Memory = TypeVar("Memory")


@dataclass(frozen=True)
class Update:
    """What clients sent, unbounded. diff: stack [k, ...]; num_examples: [k], float.

    keys: [k], int64, each client's own randomness of this round, for noise on its own update.
    """

    diff: Tree
    num_examples: Tensor
    keys: Tensor | None = None


@dataclass(frozen=True)
class Bounded:
    """Updates, each with norm at most `l2_bound` (infinite without privacy).

    votes: [k], 1/2 where an update was short enough as it came and -1/2 where it was not, for a
        mechanism that wants their sum; zeros where none does.
    """

    diff: Tree
    num_examples: Tensor
    l2_bound: float
    votes: Tensor | None = None


@dataclass(frozen=True)
class Aggregate:
    """One combined update.

    l2_sensitivity: how far one client's update of norm 1 can move it, from public constants.
    share: the part of the population that is in it, by the aggregator's weights; NaN where the
        rule has no such thing.
    votes: the sum of the votes, not yet private; expected: how many votes there are on average,
        from public constants.
    """

    diff: Tree
    l2_sensitivity: float
    share: float
    votes: Tensor | None = None
    expected: float = 0.0


@dataclass(frozen=True)
class Released:
    """What the server may use. Only mechanisms make one; post-processing keeps it released.

    share * diff is the mean over the whole population, those who were not asked counting as 0.
    """

    diff: Tree
    share: float

    def map(self, function: Callable[[Tree], Tree]) -> Released:
        """The same release after post-processing."""
        return replace(self, diff=function(self.diff))


class Noise(NamedTuple):
    """Where a release's noise comes from. stream: round -> its generator, the same at each call."""

    round_num: int
    stream: Callable[[int], Generator]


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
class Exposure:
    """Whose data a round is about to look at, and how often. counts: examples of each of cohort.

    calls: gradients that a client asks for in a local step.
    """

    scenario: Scenario
    round_num: int
    cohort: Sequence[int]
    counts: Sequence[int]
    calls: int


class Who(NamedTuple):
    """Whose examples an oracle speaks for: public, and the same in every round.

    expected: [], how many of its examples a batch has on average. key: [], int64, the randomness of
    its noise.
    """

    expected: Tensor
    key: Tensor


@dataclass(frozen=True, kw_only=True)
class Question(Generic[Memory]):
    """One step's question of k clients at once; everything is [k, ...] but the numbers.

    call: how many questions the step asked before.
    """

    task: Task
    asked: Asked
    who: Who
    memory: Memory
    penalty: Penalty | None
    call: int


@dataclass(frozen=True, kw_only=True)
class ExampleRule(Generic[Memory]):
    """What is done with the gradients of a batch's examples before anybody sees them.

    answer: question -> gradients [k, ...], mean losses [k], the memory after it.
    memory: what a client keeps between steps and rounds, from its parameters; it is never sent.
    """

    answer: Callable[[Question[Memory]], tuple[Tree, Tensor, Memory]]
    memory: Callable[[Tree], Memory] = lambda params: ()  # type: ignore[assignment, return-value]


def _nothing_spent(state: Any, exposure: Exposure) -> tuple[Entry, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Mechanism(Generic[State]):
    """A rule that bounds contributions and releases their aggregate.

    unit: who is protected; "none" where nobody is.
    relation: what neighbouring datasets are. noise_by: who adds the noise. protects_from: whom
        the guarantee holds against. statement: what a summary prints.
    init: a tree like one client's diff -> state.
    bound, release: see `fedsim.rounds`.
    example_rule: stands between clients and their examples, where there is one.
    spend: the entries for what a round is about to look at.
    account: an empty account of what was spent, or None where nothing can be.
    objection: why a scenario cannot be run with this mechanism, or None.
    norm: how long a contribution may be, as the state stands: the clip norm C of a client's update
        or of an example's gradient; infinite where nothing is bounded.
    """

    name: str
    unit: Literal["none", "example", "client"]
    statement: str
    bound: Callable[[State, Update], Bounded]
    release: Callable[[State, Aggregate, Noise], tuple[Released, State]]
    relation: str = "none"
    noise_by: str = "nobody"
    protects_from: str = "nobody"
    init: Callable[[Tree], State] = lambda like: ()  # type: ignore[assignment, return-value]
    example_rule: ExampleRule[Any] | None = None
    spend: Callable[[State, Exposure], tuple[Entry, ...]] = field(default=_nothing_spent)
    account: Callable[[], Account | None] = lambda: None
    objection: Callable[[Scenario], str | None] = lambda scenario: None
    norm: Callable[[State], float] = lambda state: math.inf
