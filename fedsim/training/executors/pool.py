"""A pool of workers that share the chunks of a round; results come in the order of the chunks.

The order matters: sums of floating-point numbers depend on it, and the same seed must give the same
bits whichever worker was faster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.training.executor import StatesOf
from fedsim.training.trainer import Trained

CHUNKS_PER_WORKER = 2  # the one it works on, and the next
_TRIES = 3  # how often a chunk is sent out before it is blamed for the deaths of its workers


class WorkerError(RuntimeError):
    """Training a chunk raised an error in a worker; the message is its traceback."""


class WorkerLost(Exception):
    """A worker has died; the chunks that it held must be trained again."""


@dataclass(frozen=True)
class Job:
    """One chunk of a round. states: the clients' states, a stack."""

    number: int
    round_num: int
    clients: list[int]
    states: Any


class Worker(ABC):
    """One worker, seen from the server's process."""

    @abstractmethod
    def send(self, job: Job) -> None:
        """Send a chunk to train; raises WorkerLost if the worker has died."""

    @abstractmethod
    def receive(self) -> tuple[int, Trained]:
        """A chunk's number and its result; raises WorkerLost, or WorkerError if training failed."""

    @abstractmethod
    def release(self, number: int) -> None:
        """Let the worker reuse the memory of this chunk's result."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the worker, without waiting for its chunk to finish."""


class WorkerFactory(ABC):
    """Starts workers of one kind, and shares a round's broadcast with them."""

    @abstractmethod
    def start(self) -> Worker:
        """Start a new worker."""

    @abstractmethod
    def publish(self, broadcast: Any) -> None:
        """Make a round's broadcast available to every worker."""

    @abstractmethod
    def wait(self, workers: list[Worker]) -> list[Worker]:
        """Wait until at least one of these workers has a result; the ones that have."""

    @abstractmethod
    def close(self) -> None:
        """Free what the workers shared, after all of them were stopped."""

    @abstractmethod
    def memory(self, workers: list[Worker]) -> int:
        """Peak memory of these workers on this machine, in bytes; 0 where it is unknown."""


@dataclass(frozen=True)
class _Round:
    """The progress of a round.

    fresh: chunks not sent yet; again: chunks to send again; tries: how often each was sent.
    done: chunk -> the worker that trained it (its place in the pool), and the result.
    """

    fresh: Iterator[Job]
    again: deque[Job]
    tries: list[int]
    done: dict[int, tuple[int, Trained]]


class WorkerPool:
    """An executor of several workers: each takes the next chunk when it has finished one.

    Guarantees:
        Results come in the chunks' order, whichever worker was faster.
        A worker that is killed is replaced, and the chunks it held are trained again.
        At most two chunks a worker are in memory.
    """

    def __init__(self, factory: WorkerFactory, workers: int) -> None:
        self._factory = factory
        self._workers: list[Worker] = [factory.start() for _ in range(workers)]
        self._held: list[dict[int, Job]] = [{} for _ in range(workers)]

    def memory(self) -> int:
        """Peak memory of the workers on this machine, in bytes; 0 where it is unknown."""
        return self._factory.memory(self._workers)

    def train(
        self, round_num: int, broadcast: Any, chunks: Sequence[list[int]], states: StatesOf
    ) -> Iterator[Trained]:
        """Train the chunks; yield results in their order.

        Raises:
            WorkerError: training a chunk raised an error.
            ChildProcessError: a chunk killed one worker after the other.
        """
        self._replace_busy_workers()
        self._factory.publish(broadcast)
        fresh = (Job(n, round_num, own, states(own)) for n, own in enumerate(chunks))
        work = _Round(fresh=fresh, again=deque(), tries=[0] * len(chunks), done={})
        for wanted in range(len(chunks)):
            self._send(work)
            while wanted not in work.done:
                self._receive(work)
                self._send(work)
            place, trained = work.done.pop(wanted)
            yield trained
            self._workers[place].release(wanted)
            del self._held[place][wanted]

    def close(self) -> None:
        """Stop all workers."""
        for worker in self._workers:
            worker.stop()
        self._factory.close()

    def _send(self, work: _Round) -> None:
        """Send chunks, those to be trained again first, until every worker holds enough."""
        while True:
            place = min(range(len(self._workers)), key=lambda one: len(self._held[one]))
            if len(self._held[place]) >= CHUNKS_PER_WORKER:
                return
            job = work.again.popleft() if work.again else next(work.fresh, None)
            if job is None:
                return
            work.tries[job.number] += 1
            if work.tries[job.number] > _TRIES:
                raise ChildProcessError(
                    f"clients {_first_few(job.clients)} brought their worker down {_TRIES} times "
                    "(short of memory? try fewer --workers or a smaller --width)"
                )
            self._held[place][job.number] = job
            try:
                self._workers[place].send(job)
            except WorkerLost:
                self._replace(place, work)

    def _receive(self, work: _Round) -> None:
        """Wait until a worker has a result or has died; take all results that are there."""
        busy = [
            place
            for place, held in enumerate(self._held)
            if any(number not in work.done for number in held)
        ]
        ready = self._factory.wait([self._workers[place] for place in busy])
        for place in busy:
            if self._workers[place] not in ready:
                continue
            try:
                number, trained = self._workers[place].receive()
            except WorkerLost:
                self._replace(place, work)
            else:
                work.done[number] = place, trained

    def _replace(self, place: int, work: _Round) -> None:
        """Start a new worker in place of a lost one, and put its chunks back to be trained."""
        for number, job in sorted(self._restart(place).items()):
            work.done.pop(number, None)  # its result was in the lost worker's memory
            work.again.append(job)

    def _replace_busy_workers(self) -> None:
        """Restart the workers that an abandoned round has left with chunks."""
        for place, held in enumerate(self._held):
            if held:
                self._restart(place)

    def _restart(self, place: int) -> dict[int, Job]:
        """Start a new worker in place of this one; the chunks that this one held."""
        held = self._held[place]
        self._workers[place].stop()
        self._workers[place], self._held[place] = self._factory.start(), {}
        return held


def _first_few(clients: list[int]) -> str:
    """The first five of a chunk's clients, as text."""
    few = ", ".join(map(str, clients[:5]))
    return few if len(clients) <= 5 else f"{few} and {len(clients) - 5} more"
