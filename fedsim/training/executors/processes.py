"""Persistent worker processes on this machine. Parameters, data and results are shared memory.

A round sends each worker a few numbers (which chunk, into which slot) and gets a few back; nothing
is pickled after the start.

Shapes: k clients of a chunk, at most the width.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.multiprocessing
from torch import Tensor

from fedsim.core import trees
from fedsim.core.machine import keep_memory, peak_memory
from fedsim.training.executor import Templates
from fedsim.training.executors.pickling import Packed, pack, unpack
from fedsim.training.executors.pool import (
    CHUNKS_PER_WORKER,
    Job,
    Worker,
    WorkerError,
    WorkerFactory,
    WorkerLost,
)
from fedsim.training.trainer import Clock, Trained, Trainer

_DONE, _FAILED = b"+", b"-"


class Slot(NamedTuple):
    """Shared memory for one chunk: what a worker receives and returns, [width, ...] each."""

    diff: list[Tensor]
    states: list[Tensor]  # on the way in, the clients' states; on the way out, their new ones
    losses: Tensor


class Processes(WorkerFactory):
    """Starts worker processes on this machine, each with one thread, or with a GPU of its own."""

    def __init__(self, trainer: Trainer, templates: Templates) -> None:
        self._context = torch.multiprocessing.get_context("spawn")
        self._packed = pack(trainer)
        for tensor in self._packed.tensors:
            _share(tensor)
        self._trainer, self._templates = trainer, templates
        self._broadcast = [_shared(leaf) for leaf in trees.leaves(templates.broadcast)]
        self._started = 0

    def start(self) -> Worker:
        """Start a new worker process."""
        gpus = torch.cuda.device_count() if self._trainer.device.type == "cuda" else 0
        device = torch.device("cuda", self._started % gpus) if gpus else torch.device("cpu")
        self._started += 1
        width, like = self._trainer.width, self._templates
        slots = [
            Slot(
                diff=[_shared(leaf, width) for leaf in like.diff.values()],
                states=[_shared(leaf, width) for leaf in trees.leaves(like.state)],
                losses=_shared(torch.zeros(()), width),
            )
            for _ in range(CHUNKS_PER_WORKER)
        ]
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work,
            args=(theirs, self._packed, self._templates, self._broadcast, slots, device),
            daemon=True,
        )
        process.start()
        theirs.close()  # so that the worker's death closes the pipe
        return _WorkerProcess(process, ours, slots, self._trainer, self._templates)

    def publish(self, broadcast: Any) -> None:
        """Copy the broadcast into memory that all workers share."""
        for target, leaf in zip(self._broadcast, trees.leaves(broadcast), strict=True):
            target.copy_(leaf)

    def memory(self, workers: list[Worker]) -> int:
        """Peak memory of these workers, without what they share, in bytes."""
        return sum(worker.memory() for worker in workers if isinstance(worker, _WorkerProcess))

    def close(self) -> None:
        """Nothing: the system frees shared memory with the last process that uses it."""

    def wait(self, workers: list[Worker]) -> list[Worker]:
        """Workers with a result ready, or dead ones; at least one."""
        by_pipe = {worker.pipe: worker for worker in workers if isinstance(worker, _WorkerProcess)}
        return [by_pipe[pipe] for pipe in wait(list(by_pipe))]  # type: ignore[index]


class _WorkerProcess(Worker):
    """One worker process and its slots."""

    def __init__(
        self, process: Any, pipe: Connection, slots: list[Slot], trainer: Trainer, like: Templates
    ) -> None:
        self.pipe = pipe
        self._process, self._slots, self._trainer, self._like = process, slots, trainer, like
        self._places: dict[int, int] = {}  # chunk -> slot
        self._jobs: dict[int, Job] = {}

    def send(self, job: Job) -> None:
        """Write a chunk's states into a slot, and send its numbers through the pipe."""
        place = min(set(range(CHUNKS_PER_WORKER)) - set(self._places.values()))
        self._places[job.number], self._jobs[job.number] = place, job
        k = len(job.clients)
        for target, leaf in zip(self._slots[place].states, trees.leaves(job.states), strict=True):
            target[:k].copy_(leaf)
        message = np.array([job.number, place, job.round_num, *job.clients], dtype=np.int64)
        try:
            self.pipe.send_bytes(message.tobytes())
        except OSError as error:
            raise WorkerLost from error

    def receive(self) -> tuple[int, Trained]:
        """The next result, as views of its slot."""
        try:
            answer = self.pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise WorkerLost from error
        number = int.from_bytes(answer[:8], "little", signed=True)
        if answer[8:9] == _FAILED:
            raise WorkerError(answer[9:].decode())
        total, data = np.frombuffer(answer, np.float64, offset=9).tolist()
        job, slot = self._jobs[number], self._slots[self._places[number]]
        k = len(job.clients)
        diff = dict(zip(self._like.diff, (part[:k] for part in slot.diff), strict=True))
        counts = self._trainer.population.counts_of(job.clients)
        return number, Trained(
            clients=job.clients,
            diff=diff,
            states=trees.rebuild(self._like.state, [part[:k] for part in slot.states]),
            num_examples=torch.tensor(counts, dtype=torch.float32),
            losses=slot.losses[:k],
            clock=Clock(total, data),
        )

    def release(self, number: int) -> None:
        """Let the next chunk use its slot."""
        del self._places[number], self._jobs[number]

    def memory(self) -> int:
        """Peak memory of this process, without what is shared, in bytes."""
        return peak_memory(self._process.pid)

    def stop(self) -> None:
        """Kill the process."""
        self.pipe.close()
        self._process.kill()
        self._process.join()
        self._process.close()


def _shared(like: Tensor, width: int | None = None) -> Tensor:
    """Zeros in shared memory, in the shape of `like`, or a stack of that."""
    shape = tuple(like.shape) if width is None else (width, *like.shape)
    return _share(torch.zeros(shape, dtype=like.dtype))


def _share(tensor: Tensor) -> Tensor:
    """Move a tensor's storage into shared memory, in place."""
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor


def _work(
    pipe: Connection,
    packed: Packed,
    like: Templates,
    broadcast: Sequence[Tensor],
    slots: list[Slot],
    device: torch.device,
) -> None:
    """Worker main loop: train chunks until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server handles Ctrl-C
    torch.set_num_threads(1)
    keep_memory()
    trainer = unpack(packed.code, packed.tensors, device)
    while True:
        try:
            message = np.frombuffer(pipe.recv_bytes(), np.int64).tolist()
        except (EOFError, OSError):
            return
        number, place, round_num, *clients = message
        answer = number.to_bytes(8, "little", signed=True)
        try:
            clock = _train(trainer, like, broadcast, slots[place], round_num, clients)
            answer += _DONE + np.array(clock, np.float64).tobytes()
        except Exception:
            answer += _FAILED + traceback.format_exc().encode()
        try:
            pipe.send_bytes(answer)
        except OSError:
            return


def _train(
    trainer: Trainer,
    like: Templates,
    broadcast: Sequence[Tensor],
    slot: Slot,
    round_num: int,
    clients: list[int],
) -> Clock:
    """Train one chunk from its slot into its slot."""
    k, device = len(clients), trainer.device
    sent = trees.rebuild(like.broadcast, [leaf.to(device) for leaf in broadcast])
    states = trees.rebuild(like.state, [part[:k].to(device) for part in slot.states])
    trained = trainer.train(round_num, sent, clients, states)
    made = [*trained.diff.values(), *trees.leaves(trained.states), trained.losses]
    for target, part in zip([*slot.diff, *slot.states, slot.losses], made, strict=True):
        target[:k].copy_(part)
    return trained.clock
