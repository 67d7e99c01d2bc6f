"""Who trains a round's chunks: this process, or workers. Results come in the chunks' order.

The order matters: sums of floating-point numbers depend on it, and the same seed must give the same
bits whichever worker was faster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fedsim.clients import Trained, Trainer
from fedsim.profile import Profile

_DEPTH = 2  # chunks a worker holds: the one it works on, and the next
_TRIES = 3  # how often a chunk is given out before its workers' deaths are its own fault

StatesOf = Callable[[Sequence[int]], Any]


class WorkerError(RuntimeError):
    """What a worker does raised an error; the message is its traceback."""


class Lost(Exception):
    """A worker is gone; what it held must be done again."""


@dataclass(frozen=True)
class Job:
    """One chunk of a round. states: the clients' states, a stack."""

    number: int
    round_num: int
    clients: list[int]
    states: Any


class Crew(Protocol):
    """Whoever does the clients' local work."""

    def train(
        self, round_num: int, broadcast: Any, chunks: Sequence[list[int]], states: StatesOf
    ) -> Iterator[Trained]:
        """The chunks' results, in order. One may be overwritten once the next is asked for."""
        ...

    def memory(self) -> int:
        """The most that other processes of this machine have held for the work, in bytes."""
        ...


@dataclass(frozen=True)
class Alone:
    """This process does the work."""

    trainer: Trainer

    def train(
        self, round_num: int, broadcast: Any, chunks: Sequence[list[int]], states: StatesOf
    ) -> Iterator[Trained]:
        """The chunks' results, one after the other."""
        for clients in chunks:
            yield self.trainer.train(round_num, broadcast, clients, states(clients))

    def memory(self) -> int:
        """None: there are no others."""
        return 0


@dataclass(frozen=True)
class Timed:
    """A crew whose time is noted."""

    crew: Crew
    profile: Profile

    def train(
        self, round_num: int, broadcast: Any, chunks: Sequence[list[int]], states: StatesOf
    ) -> Iterator[Trained]:
        """The crew's results; the wait for each is split as the worker's own clock splits it."""
        before = self.profile.seconds["local steps"]
        total = data = 0.0
        made = self.crew.train(round_num, broadcast, chunks, states)
        for trained in self.profile.each("local steps", made):
            total += trained.clock.total
            data += trained.clock.data
            yield trained
        waited = self.profile.seconds["local steps"] - before
        self.profile.split("local steps", "data", data / total if total else 0.0, waited)

    def memory(self) -> int:
        """The crew's."""
        return self.crew.memory()


class Hand(ABC):
    """One worker, seen from the server's process."""

    @abstractmethod
    def give(self, job: Job) -> None:
        """Hand over a chunk; raises Lost if nobody is there."""

    @abstractmethod
    def take(self) -> tuple[int, Trained]:
        """A chunk's number and its result; raises Lost, or WorkerError if the work failed."""

    @abstractmethod
    def free(self, number: int) -> None:
        """The result of this chunk is used up."""

    @abstractmethod
    def stop(self) -> None:
        """Let the worker go, whatever it does."""


class Team(ABC):
    """Workers that share a round's chunks: each takes the next one when it has done one.

    Guarantees:
        Results come in the chunks' order, whichever worker was faster.
        A worker that is killed is replaced, and what it held is done again.
        At most two chunks a worker are in memory.
    """

    def __init__(self, workers: int) -> None:
        self._hands: list[Hand] = [self._hire() for _ in range(workers)]
        self._held: list[dict[int, Job]] = [{} for _ in range(workers)]

    @abstractmethod
    def _hire(self) -> Hand:
        """A new worker."""

    @abstractmethod
    def _announce(self, broadcast: Any) -> None:
        """Make this round's broadcast known to every worker."""

    def memory(self) -> int:
        """The most that the workers have held on this machine, in bytes; 0 where nobody knows."""
        return 0

    @abstractmethod
    def _wait(self, hands: list[Hand]) -> list[Hand]:
        """The workers among these from which something can be taken; at least one."""

    def train(
        self, round_num: int, broadcast: Any, chunks: Sequence[list[int]], states: StatesOf
    ) -> Iterator[Trained]:
        """The chunks' results, in order.

        Raises:
            WorkerError: the clients' work raised an error.
            ChildProcessError: a chunk brought down one worker after the other.
        """
        self._recall()
        self._announce(broadcast)
        waiting = deque(enumerate(chunks))
        again: deque[Job] = deque()
        tries = [0] * len(chunks)
        done: dict[int, tuple[int, Trained]] = {}  # number -> who did it, result
        wanted = 0
        while wanted < len(chunks):
            while again or waiting:
                who = self._idlest()
                if len(self._held[who]) >= _DEPTH:
                    break
                if again:
                    job = again.popleft()
                else:
                    number, clients = waiting.popleft()
                    job = Job(number, round_num, clients, states(clients))
                tries[job.number] += 1
                if tries[job.number] > _TRIES:
                    raise ChildProcessError(
                        f"clients {_some(job.clients)} brought their worker down {_TRIES} times "
                        "(short of memory? try fewer --workers or a smaller --width)"
                    )
                self._held[who][job.number] = job
                try:
                    self._hands[who].give(job)
                except Lost:
                    again.extend(self._replace(who, done))
            if wanted in done:
                who, trained = done.pop(wanted)
                yield trained
                self._hands[who].free(wanted)
                del self._held[who][wanted]
                wanted += 1
                continue
            busy = [who for who in range(len(self._hands)) if self._unfinished(who, done)]
            ready = self._wait([self._hands[who] for who in busy])
            for who in busy:
                if self._hands[who] not in ready:
                    continue
                try:
                    number, trained = self._hands[who].take()
                except Lost:
                    again.extend(self._replace(who, done))
                else:
                    done[number] = who, trained

    def close(self) -> None:
        """Let all workers go."""
        for hand in self._hands:
            hand.stop()

    def _idlest(self) -> int:
        return min(range(len(self._hands)), key=lambda who: len(self._held[who]))

    def _unfinished(self, who: int, done: dict[int, tuple[int, Trained]]) -> bool:
        return any(number not in done for number in self._held[who])

    def _replace(self, who: int, done: dict[int, tuple[int, Trained]]) -> list[Job]:
        """A new worker in the place of a lost one; gives what has to be done again."""
        jobs = [self._held[who][number] for number in sorted(self._held[who])]
        for job in jobs:  # results lie in the lost worker's memory, or soon in its successor's
            done.pop(job.number, None)
        self._hands[who].stop()
        self._hands[who] = self._hire()
        self._held[who] = {}
        return jobs

    def _recall(self) -> None:
        """Forget what an abandoned round left behind: its workers are replaced."""
        for who, held in enumerate(self._held):
            if held:
                self._replace(who, {})


def _some(clients: list[int]) -> str:
    """A chunk's clients, not all of them where they are many."""
    few = ", ".join(map(str, clients[:5]))
    return few if len(clients) <= 5 else f"{few} and {len(clients) - 5} more"
