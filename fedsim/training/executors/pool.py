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

from fedsim.core.profile import Profile
from fedsim.training.trainer import Trained, Trainer

DEPTH = 2  # chunks a worker holds: the one it works on, and the next
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


class Employer(ABC):
    """Where workers come from."""

    @abstractmethod
    def hire(self) -> Hand:
        """A new worker."""

    @abstractmethod
    def announce(self, broadcast: Any) -> None:
        """Make a round's broadcast known to every worker."""

    @abstractmethod
    def wait(self, hands: list[Hand]) -> list[Hand]:
        """The workers among these from which something can be taken; at least one."""

    @abstractmethod
    def close(self) -> None:
        """All workers are gone: give back what they shared."""

    @abstractmethod
    def memory(self, hands: list[Hand]) -> int:
        """The most that these have held on this machine, in bytes; 0 where nobody knows."""


@dataclass(frozen=True)
class _Round:
    """How far a round is. done: chunk -> whose result, and the result."""

    fresh: Iterator[Job]
    again: deque[Job]
    tries: list[int]
    done: dict[int, tuple[int, Trained]]


class Team:
    """Workers that share a round's chunks: each takes the next one when it has done one.

    Guarantees:
        Results come in the chunks' order, whichever worker was faster.
        A worker that is killed is replaced, and what it held is done again.
        At most two chunks a worker are in memory.
    """

    def __init__(self, employer: Employer, workers: int) -> None:
        self._employer = employer
        self._hands: list[Hand] = [employer.hire() for _ in range(workers)]
        self._held: list[dict[int, Job]] = [{} for _ in range(workers)]

    def memory(self) -> int:
        """The most that the workers have held on this machine, in bytes; 0 where nobody knows."""
        return self._employer.memory(self._hands)

    def train(
        self, round_num: int, broadcast: Any, chunks: Sequence[list[int]], states: StatesOf
    ) -> Iterator[Trained]:
        """The chunks' results, in order.

        Raises:
            WorkerError: the clients' work raised an error.
            ChildProcessError: a chunk brought down one worker after the other.
        """
        self._recall()
        self._employer.announce(broadcast)
        fresh = (Job(n, round_num, own, states(own)) for n, own in enumerate(chunks))
        work = _Round(fresh=fresh, again=deque(), tries=[0] * len(chunks), done={})
        for wanted in range(len(chunks)):
            self._hand_out(work)
            while wanted not in work.done:
                self._collect(work)
                self._hand_out(work)
            who, trained = work.done.pop(wanted)
            yield trained
            self._hands[who].free(wanted)
            del self._held[who][wanted]

    def close(self) -> None:
        """Let all workers go."""
        for hand in self._hands:
            hand.stop()
        self._employer.close()

    def _hand_out(self, work: _Round) -> None:
        """Give chunks, those to be done again first, until every worker has enough."""
        while True:
            who = min(range(len(self._hands)), key=lambda one: len(self._held[one]))
            if len(self._held[who]) >= DEPTH:
                return
            job = work.again.popleft() if work.again else next(work.fresh, None)
            if job is None:
                return
            work.tries[job.number] += 1
            if work.tries[job.number] > _TRIES:
                raise ChildProcessError(
                    f"clients {_some(job.clients)} brought their worker down {_TRIES} times "
                    "(short of memory? try fewer --workers or a smaller --width)"
                )
            self._held[who][job.number] = job
            try:
                self._hands[who].give(job)
            except Lost:
                self._replace(who, work)

    def _collect(self, work: _Round) -> None:
        """Wait for results, at least for one or for the news that a worker is lost."""
        busy = [who for who, held in enumerate(self._held) if any(n not in work.done for n in held)]
        ready = self._employer.wait([self._hands[who] for who in busy])
        for who in busy:
            if self._hands[who] not in ready:
                continue
            try:
                number, trained = self._hands[who].take()
            except Lost:
                self._replace(who, work)
            else:
                work.done[number] = who, trained

    def _replace(self, who: int, work: _Round | None) -> None:
        """Hire a new worker in the place of a lost one, and have done again what that one held."""
        held = self._held[who]
        self._hands[who].stop()
        self._hands[who], self._held[who] = self._employer.hire(), {}
        if work is None:
            return
        for number in sorted(held):
            work.done.pop(number, None)  # its result lay in the lost worker's memory
            work.again.append(held[number])

    def _recall(self) -> None:
        """Forget what an abandoned round left behind: its workers are replaced."""
        for who, held in enumerate(self._held):
            if held:
                self._replace(who, None)


def _some(clients: list[int]) -> str:
    """A chunk's clients, not all of them where they are many."""
    few = ", ".join(map(str, clients[:5]))
    return few if len(clients) <= 5 else f"{few} and {len(clients) - 5} more"
