"""Executors: what trains the chunks of a round. The default trains them in this process.

Worker processes and Ray actors are in `executors/`. Results always come in the order of the chunks:
sums of floating-point numbers depend on it, and the same seed must give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from fedsim.core.profile import Profile
from fedsim.core.trees import Tree
from fedsim.training.trainer import Trained, Trainer

StatesOf = Callable[[Sequence[int]], Any]
"""A chunk's clients -> their states, a stack."""


class Templates(NamedTuple):
    """The structure of what travels: a broadcast, one client's update, one client's state."""

    broadcast: Any
    diff: Tree
    state: Any


class Executor(Protocol):
    """Trains chunks of clients."""

    def train(
        self, round_num: int, broadcast: Any, chunks: Sequence[list[int]], states: StatesOf
    ) -> Iterator[Trained]:
        """Train the chunks; yield results in their order.

        A result's memory may be overwritten once the next one is asked for.
        """
        ...

    def memory(self) -> int:
        """Peak memory of the other processes of this machine that do the work, in bytes."""
        ...


@dataclass(frozen=True)
class InThisProcess:
    """Trains one chunk after the other in this process."""

    trainer: Trainer

    def train(
        self, round_num: int, broadcast: Any, chunks: Sequence[list[int]], states: StatesOf
    ) -> Iterator[Trained]:
        """Train the chunks; yield results in their order."""
        for clients in chunks:
            yield self.trainer.train(round_num, broadcast, clients, states(clients))

    def memory(self) -> int:
        """0: there are no other processes."""
        return 0


@dataclass(frozen=True)
class TimedExecutor:
    """An executor whose time is written to a profile."""

    executor: Executor
    profile: Profile

    def train(
        self, round_num: int, broadcast: Any, chunks: Sequence[list[int]], states: StatesOf
    ) -> Iterator[Trained]:
        """Yield the executor's results.

        The time spent waiting for them is split into "data" and "local steps" in the proportion
        that the results' own clocks report.
        """
        before = self.profile.seconds["local steps"]
        total = data = 0.0
        results = self.executor.train(round_num, broadcast, chunks, states)
        for trained in self.profile.each("local steps", results):
            total += trained.clock.total
            data += trained.clock.data
            yield trained
        waited = self.profile.seconds["local steps"] - before
        self.profile.split("local steps", "data", data / total if total else 0.0, waited)

    def memory(self) -> int:
        """The executor's."""
        return self.executor.memory()
