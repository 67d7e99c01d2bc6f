"""The clients' half of a round: a chunk of clients trained as one program.

A chunk of width k runs the strategy's client functions under `torch.func.vmap`; a chunk of width 1
runs the very same functions as they are. Both give the same numbers to float rounding.

Shapes: k clients of the chunk, b a batch, s steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from fedsim.core import trees
from fedsim.core.batch import Batch
from fedsim.core.example_rule import Who
from fedsim.core.machine import Precision
from fedsim.core.rng import Purpose, bits, client_keys
from fedsim.core.scenario import AnyStrategy, BatchPlan
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.training.oracle import plain
from fedsim.world.population import Population

_GATHERED = 32 << 20  # bytes of examples that a chunk may have gathered ahead of its steps


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a chunk's local work gave. states: a stack of client states; losses: mean over steps."""

    clients: list[int]
    diff: Tree  # [k, ...]
    states: Any  # [k, ...] in every tensor
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
    oracle: Callable[[Task, Any], Any] = plain
    precision: Precision = "float32"

    def chunks(self, clients: Sequence[int]) -> Iterator[list[int]]:
        """The clients that have examples, those with most steps first, `width` at a time."""
        counts = self.population.counts_of(clients)
        steps = {c: self.plan.num_steps(n) for c, n in zip(clients, counts, strict=True) if n}
        busy = sorted(steps, key=lambda client: (-steps[client], client))
        for start in range(0, len(busy), self.width):
            yield busy[start : start + self.width]

    def train(self, round_num: int, broadcast: Any, clients: Sequence[int], states: Any) -> Trained:
        """Local work of one chunk of clients that have examples, longest first.

        Args:
            round_num: from 1; keys the randomness.
            broadcast: what the server sent, on this device.
            clients: their numbers.
            states: their states, a stack in the order of `clients`.
        """
        began = time.perf_counter()
        ids = torch.tensor(clients, device=self.device)
        counts = self.population.counts_of(clients)
        ends = [self.plan.num_steps(count) for count in counts]
        rows, mask = self._schedule(round_num, ids, broadcast, states)
        who: Any = () if self.oracle is plain else self._who(ids, counts)
        keys = bits(client_keys(self.seed, Purpose.STEP, round_num, ids), rows.shape[1])  # [k, s]
        spans = list(_spans(ends, self._steps_at_once(rows)))
        choosing = time.perf_counter() - began
        begin, walk, end = self._parts(broadcast)

        def whole(steps: Batch, state: Any, who: Any) -> Any:
            local, loss = walk(begin(steps, state), steps, state, who)
            return *end(local, steps, state), loss

        def steps_of(span: _Span) -> Batch:
            nonlocal choosing
            before = time.perf_counter()
            part = slice(0, span.clients), slice(span.start, span.stop)
            steps = self._gather(rows[part], mask[part], keys[part])
            choosing += time.perf_counter() - before
            return steps

        run = vmap if len(clients) > 1 else _alone
        if len(spans) == 1:  # all have as many steps, not too many: one program from end to end
            diff, new_states, losses = run(whole)(steps_of(spans[0]), states, who)
        else:
            local = run(begin)(ids, states)
            losses = torch.zeros(len(clients), device=self.device)
            finished: list[Any] = []  # rows of clients that have no step left, shortest first
            for span in spans:
                finished.append(_rows(local, span.clients, None))
                own = (_rows(stack, 0, span.clients) for stack in (states, who))
                local, loss = (run if span.clients > 1 else _alone)(walk)(
                    _rows(local, 0, span.clients), steps_of(span), *own
                )
                losses[: span.clients] += loss
            local = _concatenate([local, *reversed(finished)])
            diff, new_states = run(end)(local, ids, states)
        return Trained(
            clients=list(clients),
            diff=diff,
            states=new_states,
            num_examples=torch.tensor(counts, dtype=torch.float32, device=self.device),
            losses=losses / torch.tensor(ends, device=self.device),
            clock=Clock(time.perf_counter() - began, choosing),
        )

    def _parts(self, broadcast: Any) -> tuple[Callable[..., Any], ...]:
        """Beginning, steps and end of one client's local work, ready for vmap.

        What begins and ends is mapped over something of the chunk's length, used or not.
        """
        strategy = self.strategy

        def begin(length: Any, state: Any) -> Any:
            return strategy.local_init(broadcast, state)

        def walk(local: Any, steps: Batch, state: Any, who: Any) -> Any:
            total = torch.zeros((), device=self.device)
            for parts in zip(*(part.unbind() for part in steps), strict=True):
                oracle = self.oracle(self.task, who)
                local = strategy.local_step(local, Batch(*parts), oracle, broadcast, state)
                total = total + oracle.losses[0]
            return local, total

        def end(local: Any, length: Any, state: Any) -> tuple[Tree, Any]:
            return strategy.local_end(local, broadcast, state)

        return begin, walk, end

    def _gather(self, rows: Tensor, mask: Tensor, keys: Tensor) -> Batch:
        """The examples of several steps, in one go: x [k, s, b, ...]."""
        dataset = self.population.dataset
        return Batch(dataset.ready(dataset.train.x[rows]), dataset.train.y[rows], mask, keys)

    def _steps_at_once(self, rows: Tensor) -> int:
        """How many steps' examples of all clients of a chunk may lie in memory; at least one."""
        example = 4 * self.population.dataset.train.x[0].numel()  # bytes, as floats
        return max(1, _GATHERED // (example * len(rows) * rows.shape[2]))

    def _scores(self, clients: Tensor, counts: Tensor, broadcast: Any, states: Any) -> Tensor:
        """What the plan's order goes by: a score of each example of each client [k, n]."""
        score, task, owned = self.plan.scores, self.task, self.population.owned
        dataset = self.population.dataset
        assert score is not None
        place = torch.arange(int(counts.max())).clamp(max=counts[:, None] - 1)
        rows = owned.rows[owned.starts[clients][:, None] + place].to(self.device)  # [k, n]
        x, y = dataset.ready(dataset.train.x[rows]), dataset.train.y[rows]
        run = vmap if len(clients) > 1 else _alone
        with torch.no_grad():
            found: Tensor = run(lambda own, state: score(task, broadcast, state, *own))(
                (x, y), states
            )
        return found.cpu()

    def _schedule(
        self, round_num: int, ids: Tensor, broadcast: Any, states: Any
    ) -> tuple[Tensor, Tensor]:
        """Which examples each step uses, rows [k, s, b], and their mask.

        All is drawn on the CPU, so that a GPU is never waited for.
        """
        owned, clients = self.population.owned, ids.cpu()
        own_keys = client_keys(self.seed, Purpose.BATCHES, round_num, clients)
        starts = owned.starts[clients]
        counts = owned.starts[clients + 1] - starts
        scores = None
        if self.plan.scores is not None:
            scores = self._scores(clients, counts, broadcast, states)
        places = self.plan.schedule(counts, own_keys, round_num, scores)
        used = places >= 0
        at = starts[:, None, None] + places.clamp(min=0)
        if self.population.absent is not None:
            used = used & ~self.population.absent[at]
        rows = owned.rows[at]
        return rows.to(self.device), used.to(self.device, torch.float32)

    def _who(self, ids: Tensor, counts: list[int]) -> Who:
        """What oracles may know of the clients, [k] each; the same key in every round."""
        return Who(
            expected=torch.tensor([self.plan.expected(n) for n in counts], device=self.device),
            key=client_keys(self.seed, Purpose.NOISE, 0, ids),
        )


class _Span(NamedTuple):
    """Steps start to stop, which the first `clients` of a chunk take."""

    start: int
    stop: int
    clients: int


def _spans(ends: list[int], most: int) -> Iterator[_Span]:
    """Cut a chunk's steps where a client has none left, and after `most` of them.

    The clients' steps must not increase.

    Raises:
        ValueError: they do; a plan's schedule must have the steps that its num_steps says.
    """
    start = 0
    if ends != sorted(ends, reverse=True):
        raise ValueError(f"train: clients must come longest first; got {ends} steps.")
    for clients in range(len(ends), 0, -1):
        stop = ends[clients - 1]
        while start < stop:
            yield _Span(start, min(stop, start + most), clients)
            start = min(stop, start + most)


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """`vmap` for a stack of one: the function itself, without its overhead."""

    def run(*stacks: Any) -> Any:
        single = function(*(trees.map_leaves(stack, lambda t: t[0]) for stack in stacks))
        return trees.map_leaves(single, lambda t: t.unsqueeze(0))

    return run


def _rows(stack: Any, start: int, stop: int | None) -> Any:
    """Rows start to stop of every tensor of a stack; views, no copies."""
    return trees.map_leaves(stack, lambda t: t[start:stop])


def _concatenate(stacks: list[Any]) -> Any:
    """Stacks of the same structure, one below the other."""
    if len(stacks) == 1:
        return stacks[0]
    columns = zip(*(trees.leaves(stack) for stack in stacks), strict=True)
    return trees.rebuild(stacks[0], [torch.cat(parts) for parts in columns])
