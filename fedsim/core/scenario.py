"""The records that a scenario is made of: strategy, batch plan, aggregator, mechanism, scenario.

Every record here is a frozen dataclass of pure functions; state is explicit and passed in and out.
States (`Server`, `Broadcast`, `Client`, `Local`) are `NamedTuple`s of trees and tensors, so that
one client, a vmapped cohort and the wire carry the same thing. The records stand on one page
because each may object to a scenario as a whole.

Shapes: n examples of a client, b a batch, k clients of a chunk (the cohort axis of a stack).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor

from fedsim.core.attack import Attack
from fedsim.core.batch import Batch, Oracle
from fedsim.core.dataset import Source, Split
from fedsim.core.example_rule import ExampleRule
from fedsim.core.ledger import Account, Entry
from fedsim.core.sampling import Everyone, Sampling, Selection
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.core.updates import Aggregate, Bounded, Noise, Released, Update

Server = TypeVar("Server")
Broadcast = TypeVar("Broadcast")
Client = TypeVar("Client")
Local = TypeVar("Local")
State = TypeVar("State")


@dataclass(frozen=True, kw_only=True)
class Strategy(Generic[Server, Broadcast, Client, Local]):
    """One published algorithm, as pure functions (see strategies/ for one file each).

    A broadcast has a field `params`, the model. What clients send (`diff`) may be any tree.
    objection: why a scenario cannot be run with this strategy, or None.

    Guarantees (each is checked for every strategy by `fedsim.testing.check_strategy`):
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
class BatchPlan:
    """In what order clients see their data.

    schedule: (counts [k], keys [k], round_num, scores [k, n] or None) -> positions [k, steps, b],
        int64: which of its own examples client i uses in each step; -1 is padding. The steps of a
        client come first, without gaps. A client without examples has no steps.
    num_steps: a client's steps, from its number of examples.
    sampling: how an example comes into a batch, for privacy accounting.
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
class Exposure:
    """Whose data a round is about to look at, and how often. counts: examples of each of cohort.

    calls: gradients that a client asks for in a local step.
    """

    scenario: Scenario
    round_num: int
    cohort: Sequence[int]
    counts: Sequence[int]
    calls: int


def _nothing_spent(state: Any, exposure: Exposure) -> tuple[Entry, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Mechanism(Generic[State]):
    """A rule that bounds contributions and releases their aggregate.

    unit: what is protected; "none" where nothing is.
    relation: what neighbouring datasets are. noise_by: who adds the noise. protects_from: whom
        the guarantee holds against. statement: what a summary prints.
    init: a tree like one client's diff -> state.
    bound, release: see `fedsim.server.round`.
    example_rule: stands between clients and their examples, where there is one.
    spend: the entries for what a round is about to look at.
    account: an empty account of what was spent, or None where nothing can be.
    objection: why a scenario cannot be run with this mechanism, or None.
    norm: how long a contribution may be, as the state stands: the clip norm C of a client's update
        or of an example's gradient; infinite where nothing is bounded.

    What the server's round and the canaries of an audit need to know; unit, relation, noise_by and
    protects_from are printed, and nothing outside the mechanism's file compares them.

    missing_counts_as_zero: a reply that is missing or not finite is an update of zeros, because
        that it is missing would tell something about its client. Updates come with `keys`.
    losses_are_public: training losses may be reported: they are not covered by a privacy budget.
    canaries: what is planted in a run to audit the mechanism: made-up clients, made-up examples, or
        nothing, where there is no claim to audit.
    releases_each_update: every client's update is released by itself, as under local DP. So a
        canary client is observed in its own update and is in no sum, and one that is out sends the
        opposite update, as sending none would be visible.
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
    missing_counts_as_zero: bool = False
    losses_are_public: bool = False
    canaries: Literal["none", "clients", "examples"] = "none"
    releases_each_update: bool = False


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
