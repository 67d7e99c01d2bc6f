"""The cohort runtime: Flower's ServerApp and ClientApp over a CohortGrid, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context

from fedsim.core.profile import Profile
from fedsim.flower.client import client_app, cohort_answer
from fedsim.flower.grid import CohortGrid, in_process, server_context
from fedsim.flower.server import server_app
from fedsim.runs.loop import Observer
from fedsim.runs.runner import run_session
from fedsim.server.setup import PreparedRun
from fedsim.server.transport import Exchange
from fedsim.training.client_state import ClientStates
from fedsim.training.executor import Executor


def run_in_process(
    prepared: PreparedRun,
    description: Mapping[str, Any],
    observer: Observer,
    executor: Executor | None = None,
    *,
    out: Path,
    resume: bool = False,
    profile: Profile | None = None,
) -> dict[str, Any]:
    """Run an experiment on the cohort runtime; gives its summary.

    The executor trains; without one, this process does. A profile goes into the run folder.

    Raises:
        InputError: `out` exists without `resume`, or holds another run with it.
    """
    states = ClientStates(prepared.client_template)
    grid = CohortGrid(
        client_app(lambda context: prepared),
        num_nodes=prepared.scenario.population,
        cohort=cohort_answer(prepared, states, executor),
    )
    summaries: list[dict[str, Any]] = []

    def serve(context: Context, exchange_for: Callable[[PreparedRun], Exchange]) -> None:
        summaries.append(
            run_session(
                description,
                prepared,
                exchange_for(prepared),
                observer,
                out=out,
                resume=resume,
                states=states,
                executor=executor,
                profile=profile,
            )
        )

    with in_process():
        server_app(serve)(grid, server_context({}))
    return summaries[0]
