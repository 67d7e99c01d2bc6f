"""The clients' half of a round: a chunk of clients trained as one program.

A chunk of width k runs the strategy's client functions under `torch.func.vmap`; a chunk of width 1
runs the very same functions as they are. Both give the same numbers to float rounding.

Shapes: k clients of the chunk, b a batch, s steps, n examples of a client.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedsim.core.batch import Batch
from fedsim.core.example_rule import ClientFacts
from fedsim.core.machine import Precision
from fedsim.core.rng import Purpose, bits, client_keys
from fedsim.core.scenario import AnyStrategy, BatchPlan
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.training.oracle import PLAIN, OracleMaker
from fedsim.training.run_chunk import LocalWork, Span, mapped, run_chunk, spans_of
from fedsim.world.population import Population

_GATHERED = 32 << 20  # bytes of examples that a chunk may have gathered ahead of its steps


class WithMemory(NamedTuple):
    """A client's state, or its local state during a round, and its oracle's memory beside it.

    own: the strategy's. memory: the oracle's; it is kept and committed with the state, never sent.
    """

    own: Any
    memory: Any


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of a chunk's local work. losses: mean over the client's steps."""

    clients: list[int]
    diff: Tree  # [k, ...]
    states: WithMemory  # [k, ...] in every tensor, after the round
    num_examples: Tensor  # [k], float
    losses: Tensor  # [k]
    clock: Clock


class Clock(NamedTuple):
    """Seconds that a chunk took, and how many of them went into choosing and gathering data."""

    total: float
    data: float


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """All that local work needs, on one device. `width` is how many clients train as one program.

    Guarantees:
        A client's result does not depend on the other clients of its chunk beyond float rounding.
        Clients that finish early cost nothing: each step runs only those that still have one.
    """

    task: Task
    strategy: AnyStrategy
    plan: BatchPlan
    population: Population
    seed: int
    width: int
    device: torch.device
    oracles: OracleMaker = PLAIN
    precision: Precision = "float32"

    def initial_state(self, params: Tree) -> WithMemory:
        """A client's state before its first round."""
        return WithMemory(self.strategy.client_init(params), self.oracles.memory(params))

    def chunks(self, clients: Sequence[int]) -> Iterator[list[int]]:
        """The clients that have examples, those with most steps first, `width` at a time."""
        counts = self.population.counts_of(clients)
        steps = {c: self.plan.num_steps(n) for c, n in zip(clients, counts, strict=True) if n}
        busy = sorted(steps, key=lambda client: (-steps[client], client))
        for start in range(0, len(busy), self.width):
            yield busy[start : start + self.width]

    def train(
        self, round_num: int, broadcast: Any, clients: Sequence[int], states: WithMemory
    ) -> Trained:
        """Local work of one chunk of clients that have examples, longest first.

        Args:
            round_num: from 1; keys the randomness.
            broadcast: what the server sent, on this device.
            clients: their numbers.
            states: their states, a stack in the order of `clients`.
        """
        whole, data = _Stopwatch(), _Stopwatch()
        with whole:
            with data:
                schedule = self.schedule(round_num, clients, broadcast, states)

            def gather(span: Span) -> Batch:
                with data:
                    return self._gather(schedule, span)

            spans = list(spans_of(schedule.steps, self._steps_at_once(schedule.rows)))
            work, stacks = self._local_work(broadcast), (schedule.ids, states, schedule.facts)
            diff, new_states, losses = run_chunk(work, spans, gather, *stacks)
            counts = self.population.counts_of(clients)
            num_examples = torch.tensor(counts, dtype=torch.float32, device=self.device)
            losses = losses / torch.tensor(schedule.steps, device=self.device)
        return Trained(
            clients=list(clients),
            diff=diff,
            states=new_states,
            num_examples=num_examples,
            losses=losses,
            clock=Clock(whole.seconds, data.seconds),
        )

    def _local_work(self, broadcast: Any) -> LocalWork:
        """The local work of one client in three functions, to be run as they are or under vmap."""
        strategy = self.strategy

        def init(state: WithMemory, ids: Any) -> WithMemory:
            return WithMemory(strategy.local_init(broadcast, state.own), state.memory)

        def steps(
            local: WithMemory, batches: Batch, state: WithMemory, facts: Any
        ) -> tuple[WithMemory, Tensor]:
            total = torch.zeros((), device=self.device)
            for parts in zip(*(part.unbind() for part in batches), strict=True):
                oracle = self.oracles.make(self.task, facts, local.memory)
                own = strategy.local_step(local.own, Batch(*parts), oracle, broadcast, state.own)
                local = WithMemory(own, oracle.memory)
                total = total + oracle.losses[0]
            return local, total

        def end(local: WithMemory, state: WithMemory, ids: Any) -> tuple[Tree, WithMemory]:
            diff, own = strategy.local_end(local.own, broadcast, state.own)
            return diff, WithMemory(own, local.memory)

        return LocalWork(init, steps, end)

    def schedule(
        self, round_num: int, clients: Sequence[int], broadcast: Any = None, states: Any = None
    ) -> Schedule:
        """Draw which examples each step of these clients uses.

        broadcast and states are for plans that order examples by a score; others ignore them. All
        is drawn on the CPU, so that nothing waits for a GPU.
        """
        owned, numbers = self.population.owned, torch.tensor(clients)
        starts = owned.starts[numbers]
        counts = owned.starts[numbers + 1] - starts
        scores = None
        if self.plan.scores is not None:
            scores = self._score_examples(numbers, counts, broadcast, states)
        keys = client_keys(self.seed, Purpose.BATCHES, round_num, numbers)
        places = self.plan.schedule(counts, keys, round_num, scores)
        used = places >= 0
        at = starts[:, None, None] + places.clamp(min=0)
        if self.population.absent is not None:
            used = used & ~self.population.absent[at]
        ids = numbers.to(self.device)
        step_keys = client_keys(self.seed, Purpose.STEP, round_num, ids)
        return Schedule(
            ids=ids,
            steps=[self.plan.num_steps(count) for count in counts.tolist()],
            rows=owned.rows[at].to(self.device),
            mask=used.to(self.device, torch.float32),
            keys=bits(step_keys, places.shape[1]),
            facts=self._facts(ids, counts.tolist()) if self.oracles.needs_facts else (),
        )

    def _score_examples(
        self, clients: Tensor, counts: Tensor, broadcast: Any, states: WithMemory
    ) -> Tensor:
        """The plan's score of each example of each client, [k, n], by which it orders them."""
        score, task, owned = self.plan.scores, self.task, self.population.owned
        dataset = self.population.dataset
        assert score is not None
        place = torch.arange(int(counts.max())).clamp(max=counts[:, None] - 1)
        rows = owned.rows[owned.starts[clients][:, None] + place].to(self.device)  # [k, n]
        x, y = dataset.ready(dataset.train.x[rows]), dataset.train.y[rows]
        score_all = mapped(
            lambda examples, own: score(task, broadcast, own, *examples), len(clients)
        )
        with torch.no_grad():
            scores: Tensor = score_all((x, y), states.own)
        return scores.cpu()

    def _facts(self, ids: Tensor, counts: list[int]) -> ClientFacts:
        """What oracles may know of the clients, [k] each; the same keys in every round."""
        return ClientFacts(
            expected=torch.tensor([self.plan.expected(n) for n in counts], device=self.device),
            key=client_keys(self.seed, Purpose.NOISE, 0, ids),
        )

    def _steps_at_once(self, rows: Tensor) -> int:
        """How many steps' examples of all clients of a chunk may lie in memory; at least one."""
        example = 4 * self.population.dataset.train.x[0].numel()  # bytes, as floats
        return max(1, _GATHERED // (example * len(rows) * rows.shape[2]))

    def _gather(self, schedule: Schedule, span: Span) -> Batch:
        """The examples of several steps, in one go: x [k, s, b, ...]."""
        part = slice(0, span.clients), slice(span.start, span.stop)
        rows, dataset = schedule.rows[part], self.population.dataset
        return Batch(
            x=dataset.ready(dataset.train.x[rows]),
            y=dataset.train.y[rows],
            mask=schedule.mask[part],
            key=schedule.keys[part],
        )


class Schedule(NamedTuple):
    """Which examples a chunk's clients use in a round, and the randomness of their steps.

    ids: the clients' numbers [k]. steps: how many each takes; s is the largest.
    rows: of the training examples, [k, s, b]; mask: [k, s, b], 0 where a row is padding.
    keys: [k, s], int64, for the randomness within a step (dropout).
    facts: about the clients, for their oracles; () where those use none.
    """

    ids: Tensor
    steps: list[int]
    rows: Tensor
    mask: Tensor
    keys: Tensor
    facts: Any


class _Stopwatch(AbstractContextManager[None]):
    """Adds up the seconds spent inside its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began
