"""Run a scenario: the one sequence from a scenario to a finished run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fedsim.canaries.plan import in_the_end, record
from fedsim.core.machine import peak_memory
from fedsim.core.profile import Profile
from fedsim.core.scenario import Scenario
from fedsim.core.settings import Settings
from fedsim.flower.cohort import cohort_exchange
from fedsim.flower.grid import in_process
from fedsim.runs import plots
from fedsim.runs.callbacks import Callback, check_callbacks
from fedsim.runs.description import default_folder, describe, resume_settings
from fedsim.runs.folder import RunFolder, refuse_existing
from fedsim.runs.forecast import refuse_no_round
from fedsim.runs.loop import Finished, simulate
from fedsim.runs.request import Request
from fedsim.runs.result import Result
from fedsim.runs.summary import summarise, write_clients
from fedsim.server.setup import PreparedRun, prepare
from fedsim.server.transport import Exchange
from fedsim.training.client_state import ClientStates
from fedsim.training.executor import Executor
from fedsim.training.executors.open import Runtime, choose_workers, open_executor


def run(
    name: str,
    scenario: Scenario,
    settings: Settings,
    *,
    knobs: Mapping[str, Any] | None = None,
    runtime: Runtime = "cohort",
    out: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    keep_profile: bool = False,
) -> Result:
    """Run a scenario in this process, its workers included, into a run folder.

    Args:
        name: of the scenario, for people and for the folder.
        scenario: what to run.
        settings: the seed, and where and how it is computed.
        knobs: what the scenario was made from, for run.json.
        runtime: worker processes of this machine, or Ray actors.
        out: the run folder; by default runs/<name>-<time>.
        resume: go on with the run in `out`.
        callbacks: what watches the run, and may stop it.
        keep_profile: write where the time went, with a picture of it.

    Raises:
        InputError: the scenario cannot be run as asked, `out` exists without `resume`, or holds
            another run with it.
        PrivacyError: the budget allows no round.
    """
    callbacks = check_callbacks(callbacks)
    if resume and out is not None:
        settings = resume_settings(out, settings)
    elif out is not None:
        refuse_existing(out)
    profile = Profile()
    with ExitStack() as stack:
        with profile.part("start"):
            prepared = prepare(scenario, choose_workers(settings, runtime))
            refuse_no_round(prepared)
            description = describe(name, knobs or {}, prepared, runtime)
            executor = stack.enter_context(
                open_executor(
                    prepared.trainer, prepared.workers, prepared.templates, runtime, profile
                )
            )
        return run_prepared(
            prepared,
            description,
            callbacks,
            executor,
            out=out or default_folder(name),  # named late: another run may begin in this second
            resume=resume,
            profile=profile,
            keep_profile=keep_profile,
        )


def run_request(
    asked: Request,
    *,
    out: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    keep_profile: bool = False,
) -> Result:
    """Run what was asked for; see `run`.

    Raises:
        InputError, PrivacyError: as `run`.
    """
    return run(
        asked.name,
        asked.scenario,
        asked.settings,
        knobs=asked.knobs,
        runtime=asked.runtime,
        out=out,
        resume=resume,
        callbacks=callbacks,
        keep_profile=keep_profile,
    )


def run_prepared(
    prepared: PreparedRun,
    description: Mapping[str, Any],
    callbacks: Sequence[Callback] = (),
    executor: Executor | None = None,
    *,
    out: Path,
    resume: bool = False,
    profile: Profile | None = None,
    keep_profile: bool = False,
) -> Result:
    """Run what is prepared, its clients trained by `executor` or by this process.

    Raises:
        InputError: `out` exists without `resume`, or holds another run with it.
    """
    states = ClientStates(prepared.client_template)
    with in_process():
        return record_run(
            prepared,
            description,
            cohort_exchange(prepared, states, executor),
            callbacks,
            out=out,
            resume=resume,
            states=states,
            executor=executor,
            profile=profile,
            keep_profile=keep_profile,
        )


def record_run(
    prepared: PreparedRun,
    description: Mapping[str, Any],
    exchange: Exchange,
    callbacks: Sequence[Callback] = (),
    *,
    out: Path,
    resume: bool = False,
    states: ClientStates | None = None,
    executor: Executor | None = None,
    profile: Profile | None = None,
    keep_profile: bool = False,
) -> Result:
    """Run over an exchange, and record rounds, model, pictures and summary in the run folder.

    Args:
        prepared: what to run.
        description: the content of `run.json`.
        exchange: how clients are reached.
        callbacks: what watches the run, and may stop it.
        out: the run folder.
        resume: go on with the run in it.
        states: the client states of this process.
        executor: what trains in this process; for the memory it takes.
        profile: notes where the time goes.
        keep_profile: write it into the folder, with a picture.

    Raises:
        InputError: `out` exists without `resume`, or holds another run with it.
    """
    times = profile or Profile()
    folder = (RunFolder.reopen if resume else RunFolder.create)(out, description)
    try:
        finished = _with_canaries(prepared, exchange, folder, callbacks, states, times)
        folder.write_model(finished.params)
        with times.part("pictures"):
            write_clients(out / "clients.csv", prepared, finished)
            plots.draw_run(out / "plots", finished.metrics, finished.evaluation, prepared.dealt)
        if keep_profile:
            _write_profile(out, times)
        memory = peak_memory() + (executor.memory() if executor else 0)
        summary = summarise(description, prepared, finished) | {"memory_bytes": memory}
        summary["privacy"]["seal"] = folder.seal
        folder.write_summary(summary)
    finally:
        folder.close()
    result = Result(folder=out, task=prepared.scenario.task)
    for callback in callbacks:
        callback.run_done(result)
    return result


def _with_canaries(
    prepared: PreparedRun,
    exchange: Exchange,
    folder: RunFolder,
    callbacks: Sequence[Callback],
    states: ClientStates | None,
    times: Profile,
) -> Finished:
    """Run all rounds; where the run has canaries, record them before and after."""
    canaries, scenario = prepared.canaries, prepared.scenario
    if canaries is None:
        return simulate(prepared, exchange, folder, callbacks, states, times)
    before = record(canaries, scenario, prepared.settings.seed)
    folder.write_canaries(before)
    finished = simulate(prepared, exchange, folder, callbacks, states, times)
    after = in_the_end(canaries, scenario, prepared.initial_params, finished.params)
    folder.write_canaries(before | after)
    return finished


def _write_profile(out: Path, profile: Profile) -> None:
    seconds = {name: round(value, 6) for name, value in profile.seconds.items()}
    (out / "profile.json").write_text(json.dumps({"seconds": seconds}, indent=2), encoding="utf-8")
    plots.draw_profile(out / "plots" / "profile.png", profile.seconds)
