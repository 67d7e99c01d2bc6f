"""Opening the crew of a run: this process, worker processes, or Ray actors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from fedsim.core.machine import keep_memory, threads
from fedsim.core.profile import Profile
from fedsim.server.setup import Experiment
from fedsim.training.executors.pool import Alone, Crew, Employer, Team, Timed
from fedsim.training.executors.processes import Processes, Templates

Runtime = Literal["cohort", "ray"]


@contextmanager
def open_crew(
    experiment: Experiment, runtime: Runtime = "cohort", profile: Profile | None = None
) -> Iterator[Crew]:
    """Whoever trains the experiment's clients; workers are let go at the end.

    Args:
        experiment: what is run.
        runtime: on this machine, or on Ray's.
        profile: notes the time that the work takes.

    Raises:
        InputError: Ray is asked for and not installed.
    """
    templates = Templates(
        experiment.broadcast_template, experiment.diff_template, experiment.client_template
    )
    employer: Employer
    # One thread a process: threads that share small operations wait for each other more than they
    # work, and on a busy machine a hundred times longer (docs/guides/performance.md).
    if runtime == "ray":
        from fedsim.training.executors.ray_actors import Actors

        employer = Actors(experiment.trainer, templates, experiment.workers)
    elif experiment.workers > 1:
        employer = Processes(experiment.trainer, templates)
    else:
        keep_memory()
        with threads(1):
            yield Timed(Alone(experiment.trainer), profile or Profile())
        return
    team = Team(employer, experiment.workers)
    try:
        with threads(1):
            yield Timed(team, profile or Profile())
    finally:
        team.close()
