"""Workers as Ray actors, on this machine or on a cluster.

Data and code are put into Ray's object store once, and are copied once to each node. A cluster that
`ray start` has started is used if there is one (RAY_ADDRESS chooses among several).
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import InputError
from fedsim.core.machine import keep_memory
from fedsim.training.executor import Templates
from fedsim.training.executors.pickling import pack, unpack
from fedsim.training.executors.pool import Job, Worker, WorkerError, WorkerFactory, WorkerLost
from fedsim.training.trainer import Clock, Trained, Trainer

try:
    import ray
    from ray.exceptions import RayActorError, RayTaskError
except ImportError as error:
    raise InputError(
        "run: --runtime ray must find Ray; got no package ray. "
        "Install it with pip install 'fedsim-lab[simulation]'."
    ) from error

Arrays = list[Any]
"""The tensors of a state as NumPy arrays, in the order of `trees.leaves`."""


def connect() -> int:
    """Join Ray's cluster, or start one on this machine; returns how many CPUs it has."""
    if not ray.is_initialized():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future way
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 1)))


class Actors(WorkerFactory):
    """Starts Ray actors, each with one CPU, or with one GPU where the trainer is on one.

    Raises:
        InputError: there are more workers than CPUs, so that some would never start.
    """

    def __init__(self, trainer: Trainer, templates: Templates, workers: int) -> None:
        room = connect()
        if workers > room and trainer.device.type == "cpu":
            ray.shutdown()
            raise InputError(
                f"run: workers must be at most the CPUs of Ray's cluster, {room}; got {workers}. "
                f"Use --workers {room} or fewer."
            )
        packed = pack(trainer)
        self._trainer, self._templates = trainer, templates
        self._code = ray.put((packed.code, templates))
        self._data = [ray.put(tensor.numpy()) for tensor in packed.tensors]
        self._broadcast: Any = None
        cuda = trainer.device.type == "cuda"
        self._actor = ray.remote(num_cpus=0 if cuda else 1, num_gpus=int(cuda))(_Actor)

    def close(self) -> None:
        """Leave Ray; a cluster that was started for this run ends."""
        ray.shutdown()

    def memory(self, workers: list[Worker]) -> int:
        """Unknown: actors may run on any node."""
        return 0

    def start(self) -> Worker:
        """Start a new actor."""
        actor = self._actor.remote(self._code, self._trainer.device.type, *self._data)
        return _RayWorker(actor, self)

    def publish(self, broadcast: Any) -> None:
        """Put the broadcast into Ray's object store."""
        self._broadcast = ray.put(_arrays(broadcast))

    def wait(self, workers: list[Worker]) -> list[Worker]:
        """One worker with a result ready, or a dead one."""
        by_ref = {worker.next_ref(): worker for worker in workers if isinstance(worker, _RayWorker)}
        ready, _ = ray.wait(list(by_ref), num_returns=1)
        return [by_ref[ref] for ref in ready]

    def submit(self, actor: Any, job: Job) -> Any:
        """Send a chunk to an actor; returns the reference of its result."""
        return actor.train.remote(job.round_num, self._broadcast, job.clients, _arrays(job.states))

    def result(self, job: Job, made: Sequence[Arrays]) -> Trained:
        """An actor's arrays as the record that the trainer makes."""
        diff, states, (losses, clock) = (_tensors(part) for part in made)
        counts = self._trainer.population.counts_of(job.clients)
        return Trained(
            clients=job.clients,
            diff=dict(zip(self._templates.diff, diff, strict=True)),
            states=trees.rebuild(self._templates.state, states),
            num_examples=torch.tensor(counts, dtype=torch.float32),
            losses=losses,
            clock=Clock(*clock.tolist()),
        )


class _RayWorker(Worker):
    """One actor, and the chunks sent to it, in order."""

    def __init__(self, actor: Any, actors: Actors) -> None:
        self._actor, self._actors = actor, actors
        self._sent: list[tuple[Any, Job]] = []

    def next_ref(self) -> Any:
        """The reference of its next result."""
        return self._sent[0][0]

    def send(self, job: Job) -> None:
        """Send a chunk."""
        self._sent.append((self._actors.submit(self._actor, job), job))

    def receive(self) -> tuple[int, Trained]:
        """The next result."""
        ref, job = self._sent.pop(0)
        try:
            made = ray.get(ref)
        except RayActorError as error:
            raise WorkerLost from error
        except RayTaskError as error:
            raise WorkerError(str(error)) from error
        return job.number, self._actors.result(job, made)

    def release(self, number: int) -> None:
        """Nothing: Ray counts references."""

    def stop(self) -> None:
        """Kill the actor."""
        ray.kill(self._actor)


class _Actor:
    """The code of a worker, which runs on a node that Ray chooses."""

    def __init__(self, code: tuple[bytes, Templates], device: str, *data: Any) -> None:
        torch.set_num_threads(1)
        keep_memory()
        packed, self._templates = code
        self._trainer = unpack(packed, _views(data), torch.device(device))

    def train(
        self, round_num: int, broadcast: Arrays, clients: list[int], states: Arrays
    ) -> tuple[Arrays, Arrays, Arrays]:
        """Train one chunk; returns update, new states, and losses with the clock."""
        device = self._trainer.device
        sent, kept = (
            trees.rebuild(like, [part.to(device) for part in _tensors(arrays)])
            for like, arrays in (
                (self._templates.broadcast, broadcast),
                (self._templates.state, states),
            )
        )
        trained = self._trainer.train(round_num, sent, clients, kept)
        losses = [trained.losses.cpu().numpy(), np.array(trained.clock)]
        return _arrays(trained.diff), _arrays(trained.states), losses


def _arrays(state: Any) -> Arrays:
    return [leaf.detach().cpu().numpy() for leaf in trees.leaves(state)]


def _tensors(arrays: Sequence[Any]) -> list[Tensor]:
    """Copies as tensors: arrays from Ray's store are read-only."""
    return [torch.from_numpy(np.array(array)) for array in arrays]


def _views(arrays: Sequence[Any]) -> list[Tensor]:
    """The data as tensors, without a copy: read-only memory of Ray's store, never written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return [torch.from_numpy(array) for array in arrays]
