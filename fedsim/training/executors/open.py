"""Open the executor of a run: this process, worker processes, or Ray actors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from fedsim.core.machine import keep_memory, use_threads
from fedsim.core.profile import Profile
from fedsim.core.settings import Settings
from fedsim.training.executor import Executor, InThisProcess, Templates, TimedExecutor
from fedsim.training.executors.pool import WorkerFactory, WorkerPool
from fedsim.training.executors.processes import Processes
from fedsim.training.trainer import Trainer

Runtime = Literal["cohort", "ray"]


def choose_workers(settings: Settings, runtime: Runtime) -> Settings:
    """The settings, with as many workers as Ray has room for where the user left it open."""
    if runtime != "ray" or settings.workers is not None:
        return settings
    from fedsim.training.executors.ray_actors import connect

    return replace(settings, workers=connect())


@contextmanager
def open_executor(
    trainer: Trainer,
    workers: int,
    templates: Templates,
    runtime: Runtime = "cohort",
    profile: Profile | None = None,
) -> Iterator[Executor]:
    """Open an executor; at the end of the `with` block its workers are stopped.

    Args:
        trainer: trains a chunk.
        workers: how many processes train; with 1 it is this one, except on Ray.
        templates: the structure of what travels between the server and the workers.
        runtime: processes of this machine, or Ray actors.
        profile: notes the time that the work takes.

    Raises:
        InputError: Ray is asked for and not installed.
    """
    profile = profile or Profile()
    # One thread a process: threads that share small operations wait for each other more than they
    # work, and on a busy machine a hundred times longer (docs/guides/performance.md).
    if runtime == "cohort" and workers <= 1:
        keep_memory()
        with use_threads(1):
            yield TimedExecutor(InThisProcess(trainer), profile)
        return
    factory: WorkerFactory
    if runtime == "ray":
        from fedsim.training.executors.ray_actors import Actors

        factory = Actors(trainer, templates, workers)
    else:
        factory = Processes(trainer, templates)
    pool = WorkerPool(factory, workers)
    try:
        with use_threads(1):
            yield TimedExecutor(pool, profile)
    finally:
        pool.close()
