"""The vocabulary of fedsim on one page: what a strategy, a plan, a mechanism and a scenario are.

Every record here is a frozen dataclass of pure functions; state is explicit and passed in and out.
States (`Server`, `Broadcast`, `Client`, `Local` and the state of a step rule) are `NamedTuple`s of
trees and tensors, so that one client, a vmapped cohort and the wire carry the same thing.

Shapes: n examples of a client, b a batch, k clients of a chunk (the cohort axis of a stack).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from torch import Tensor

from fedsim.mechanism import Aggregate as Aggregate
from fedsim.mechanism import Bounded as Bounded
from fedsim.mechanism import Mechanism as Mechanism
from fedsim.mechanism import Released as Released
from fedsim.mechanism import Sampling as Sampling
from fedsim.mechanism import Tree as Tree
from fedsim.mechanism import Update as Update

if TYPE_CHECKING:
    from fedsim.attacks import Attack
    from fedsim.data import Source
    from fedsim.splits import Split
    from fedsim.tasks import Task

Server = TypeVar("Server")
Broadcast = TypeVar("Broadcast")
Client = TypeVar("Client")
Local = TypeVar("Local")
State = TypeVar("State")


class Batch(NamedTuple):
    """One mini-batch of one client. Rows whose mask is 0 are padding and count for nothing."""

    x: Tensor  # [b, ...]
    y: Tensor  # [b]
    mask: Tensor  # [b], 0. or 1.
    key: Tensor  # [], int64: the randomness of this step (dropout), the same wherever it runs


class Outputs(NamedTuple):
    """What a model says of a batch. features: [b, f], what its last dense layer sees."""

    features: Tensor
    logits: Tensor  # [b, C]


class Penalty(NamedTuple):
    """What a strategy adds to the loss of each example, so that it is clipped with it.

    of: (outputs, mask [b], *given) -> [b].
    given: tensors [b, ...] that go with the examples.
    separable: row i depends on row i alone; clipping for each example refuses anything else.
    """

    of: Callable[..., Tensor]
    given: tuple[Tensor, ...] = ()
    separable: bool = True


class Oracle(Protocol):
    """All that a strategy may ask of the data. Example-level privacy lives behind it.

    held are parameters that the model needs and that are not learned here.
    """

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """The gradient of the batch's mean loss at `params`, with the penalty's."""
        ...

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """The batch's mean loss at `params`, shape []."""
        ...

    def features(self, params: Tree, batch: Batch) -> Tensor:
        """What the model's last dense layer sees of the batch at `params`, in evaluation; [b, f].

        Only for the use of a penalty: no example's features may reach another's loss, or an update.
        """
        ...


# --- the orthogonal choices of an algorithm ------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Strategy(Generic[Server, Broadcast, Client, Local]):
    """One published algorithm, as pure functions (see strategies/ for one file each).

    A broadcast has a field `params`, the model. What clients send (`diff`) may be any tree.
    objection: why a scenario cannot be run with this strategy, or None.

    Guarantees (each is checked for every strategy by `fedsim.check.check_strategy`):
        Functions do not change their arguments.
        Client functions are vmappable: one client and a stack of k clients agree.
        `update` sees only what a mechanism released.
    """

    name: str
    init: Callable[[Tree], Server]
    broadcast: Callable[[Server, int], Broadcast]  # (server, round_num, counted from 1)
    update: Callable[[Server, Released], Server]
    params: Callable[[Server], Tree]
    client_init: Callable[[Tree], Client]
    local_init: Callable[[Broadcast, Client], Local]
    local_step: Callable[[Local, Batch, Oracle, Broadcast, Client], Local]
    local_end: Callable[[Local, Broadcast, Client], tuple[Tree, Client]]  # (diff, new state)
    objection: Callable[[Scenario], str | None] = lambda scenario: None


AnyStrategy = Strategy[Any, Any, Any, Any]


@dataclass(frozen=True, kw_only=True)
class StepRule(Generic[State]):
    """How a client moves, given a gradient function of its local objective on this step's batch.

    init: (params, round_num as a tensor []) -> state;  step: (state, params, gradient) -> both.
    The function, not its value, is passed in: some rules look at more than one point.
    reach: (state, steps taken, []) -> how far a gradient of 1, always the same, has moved, []:
        eta K for plain SGD. Dividing a client's diff by it gives its mean gradient. None where
        no such number exists, because moves are not linear in the gradients.
    """

    name: str
    init: Callable[[Tree, Tensor], State]
    step: Callable[[State, Tree, Callable[[Tree], Tree]], tuple[Tree, State]]
    reach: Callable[[State, Tensor], Tensor] | None


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """In what order clients see their data.

    schedule: (counts [k], keys [k], round_num, scores [k, n] or None) -> positions [k, steps, b],
        int64: which of its own examples client i uses in each step; -1 is padding. The steps of a
        client come first, without gaps. A client without examples has no steps.
    num_steps: a client's steps, from its number of examples.
    sampling: how an example comes into a batch, for whoever accounts privacy.
    expected: a batch's size on average, from the client's number of examples; public.
    scores: (task, broadcast, client state, x [n, ...], y [n]) -> one score for each example [n];
        None where the order needs none.
    objection: why a scenario cannot be run with this plan, or None.
    """

    name: str
    schedule: Callable[[Tensor, Tensor, int, Tensor | None], Tensor]
    num_steps: Callable[[int], int]
    sampling: Sampling
    expected: Callable[[int], float]
    scores: Callable[[Task, Any, Any, Tensor, Tensor], Tensor] | None = None
    objection: Callable[[Scenario], str | None] = lambda scenario: None


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


@dataclass(frozen=True, kw_only=True)
class Aggregator(Generic[State]):
    """How bounded updates are combined, one stack at a time: memory O(chunk x d).

    init: a tree like one client's diff -> state.
    add: may write to its own state, but keeps no view of the stack: the next one may come in the
        same memory.
    finish: (state, everyone) -> the aggregate, or None when nothing with a positive weight was
        added, or why the rule refuses what was added.
    averages: whether what it gives is a mean of the updates, so that its share means something.
    public: whether it divides by public constants alone, so that its sensitivity is known.
    objection: why a scenario cannot be run with this rule, or None.
    """

    name: str
    init: Callable[[Tree], State]
    add: Callable[[State, Bounded], State]
    finish: Callable[[State, Everyone], Aggregate | str | None]
    averages: bool = True
    public: bool = False
    objection: Callable[[Scenario], str | None] = lambda scenario: None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Everything about a run but its seed and the machine: a world and an algorithm, as a value.

    attack: what some clients do instead of what they are asked, or None.
    budget: the epsilon that the run stops short of exceeding, or None.
    canaries: how many are added to audit the budget; see `fedsim.canaries`.
    """

    data: Source
    split: Split
    task: Task
    strategy: AnyStrategy
    plan: BatchPlan
    selection: Selection[Any]
    aggregator: Aggregator[Any]
    mechanism: Mechanism[Any]
    population: int
    cohort: int
    rounds: int
    evaluate_every: int = 1
    attack: Attack | None = None
    budget: float | None = None
    canaries: int = 0
