"""A run from an experiment to a finished folder: describe, simulate, sum up, draw."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fedsim.canaries.plan import in_the_end, record
from fedsim.core import trees
from fedsim.core.ledger import Account
from fedsim.core.machine import peak_memory
from fedsim.core.profile import Profile
from fedsim.core.settings import Settings
from fedsim.runs import plots
from fedsim.runs.folder import Metrics, RunFolder, read_description
from fedsim.runs.loop import Finished, Observer, simulate
from fedsim.server.setup import PreparedRun
from fedsim.server.transport import Exchange
from fedsim.training.client_state import ClientStates
from fedsim.training.evaluation import spread
from fedsim.training.executor import Executor

_PACKAGES = ("torch", "flwr", "numpy")


def default_folder(scenario: str) -> Path:
    """`runs/<scenario>-<time>`, with a number where two runs start in the same second."""
    stem = f"{scenario}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder, number = Path("runs") / stem, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{stem}-{number}"
    return folder


def resumed(folder: Path, settings: Settings) -> Settings:
    """The settings to resume with: the run's own width and workers where none are asked for.

    So that the bits repeat.
    """
    before = read_description(folder)["settings"]
    return replace(
        settings,
        width=settings.width or before["width"],
        workers=settings.workers or before["workers"],
    )


def describe(
    name: str, knobs: Mapping[str, Any], prepared: PreparedRun, runtime: str
) -> dict[str, Any]:
    """The content of `run.json`."""
    scenario, population = prepared.scenario, prepared.dealt
    return {
        "scenario": name,
        "knobs": dict(knobs),
        "settings": {
            "seed": prepared.settings.seed,
            "device": prepared.device.type,
            "width": prepared.trainer.width,
            "workers": prepared.workers,
            "precision": prepared.settings.precision,
            "runtime": runtime,
        },
        "data": {
            "name": population.dataset.name,
            "fingerprint": population.dataset.fingerprint(),
            "split": scenario.split.name,
        },
        "algorithm": {
            "strategy": scenario.strategy.name,
            "plan": scenario.plan.name,
            "selection": scenario.selection.name,
            "aggregator": scenario.aggregator.name,
            **_attack(prepared),
            "task": scenario.task.name,
            "parameters": sum(t.numel() for t in prepared.initial_params.values()),
        },
        "privacy": {
            "mechanism": scenario.mechanism.name,
            "unit": scenario.mechanism.unit,
            "relation": scenario.mechanism.relation,
            "noise_by": scenario.mechanism.noise_by,
            "protects_from": scenario.mechanism.protects_from,
            "sampling": scenario.selection.sampling.words,
            "batches": scenario.plan.sampling.words,
            "statement": scenario.mechanism.statement,
            "budget": scenario.budget,
            **_delta(scenario.mechanism.account()),
        },
        "rounds": scenario.rounds,
        "population": scenario.population,
        "canaries": scenario.canaries,
        "cohort": scenario.cohort,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            **{package: metadata.version(package) for package in _PACKAGES},
        },
    }


def _delta(account: Account | None) -> dict[str, float]:
    """At which a run will give epsilon, where anything is protected."""
    return {} if account is None else {"delta": account.delta}


def _attack(prepared: PreparedRun) -> dict[str, Any]:
    """The attack and who attacks, where there is one."""
    attack = prepared.scenario.attack
    if attack is None:
        return {}
    return {"attack": attack.name, "attackers": sorted(prepared.attackers)}


def run_session(
    description: Mapping[str, Any],
    prepared: PreparedRun,
    exchange: Exchange,
    observer: Observer,
    *,
    out: Path,
    resume: bool,
    states: ClientStates | None = None,
    executor: Executor | None = None,
    profile: Profile | None = None,
) -> dict[str, Any]:
    """Run an experiment into its folder and sum it up.

    Args:
        description: the content of `run.json`.
        prepared: what to run.
        exchange: how clients are reached.
        observer: who is told.
        out: the run folder.
        resume: whether to go on with the run in it.
        states: the client states of this process.
        executor: what trains, if it is known here; for the memory it takes.
        profile: notes where the time goes; if there is one, the folder gets it and its picture.

    Raises:
        InputError: `out` exists without `resume`, or holds another run with it.
    """
    open_folder = RunFolder.reopen if resume else RunFolder.create
    folder = open_folder(out, description)
    try:
        times, canaries, drawn = profile or Profile(), prepared.canaries, dict[str, Any]()
        if canaries is not None:
            drawn = record(canaries, prepared.scenario, prepared.settings.seed)
            folder.write_canaries(drawn)
        finished = simulate(prepared, exchange, folder, observer, states, times)
        if canaries is not None:
            ended = in_the_end(
                canaries, prepared.scenario, prepared.initial_params, finished.params
            )
            folder.write_canaries(drawn | ended)
        with times.part("pictures"):
            _write_clients(out / "clients.csv", prepared, finished)
            plots.draw_run(out / "plots", finished.metrics, finished.evaluation, prepared.dealt)
        if profile is not None:
            _write_profile(out, profile)
        memory = peak_memory() + (executor.memory() if executor else 0)
        summary = summarise(description, prepared, finished) | {"memory_bytes": memory}
        summary["privacy"]["seal"] = folder.seal
        folder.write_summary(summary)
    finally:
        folder.close()
    return {**summary, "folder": str(out)}


def _write_profile(out: Path, profile: Profile) -> None:
    seconds = {name: round(value, 6) for name, value in profile.seconds.items()}
    (out / "profile.json").write_text(json.dumps({"seconds": seconds}, indent=2), encoding="utf-8")
    plots.draw_profile(out / "plots" / "profile.png", profile.seconds)


def summarise(
    description: Mapping[str, Any], prepared: PreparedRun, finished: Finished
) -> dict[str, Any]:
    """The content of `summary.json`."""
    evaluated = [row for row in finished.metrics if "test_loss" in row]
    if finished.evaluation.accuracy is None:
        best, goal = min(evaluated, key=lambda row: row["test_loss"]), "test_loss"
    else:
        best, goal = max(evaluated, key=lambda row: row["test_accuracy"]), "test_accuracy"
    rejected: dict[str, int] = {}
    for row in finished.metrics:
        for client in row["rejected"]:
            rejected[client] = rejected.get(client, 0) + 1
    counts = prepared.dealt.owned.counts()
    return {
        "scenario": description["scenario"],
        "strategy": description["algorithm"]["strategy"],
        "seed": description["settings"]["seed"],
        "rounds": len(finished.metrics),
        "test_loss": finished.evaluation.loss,
        "test_accuracy": finished.evaluation.accuracy,
        "best": {goal: best[goal], "round": best["round"]},
        "personal_accuracy": {
            "of": finished.evaluation.source,
            **spread(finished.evaluation.personal),
        },
        "bytes_down": _total(finished.metrics, "bytes_down"),
        "bytes_up": _total(finished.metrics, "bytes_up"),
        "seconds": _total(finished.metrics, "seconds"),
        "model_bytes": trees.num_bytes(finished.params),
        "rejected": rejected,
        "clients": {
            "population": len(counts),
            "empty": int((counts == 0).sum()),
            "examples": [int(counts.min()), float(counts.float().median()), int(counts.max())],
        },
        "privacy": description["privacy"] | _spent(finished),
        "stopped": finished.stopped,
    }


def _spent(finished: Finished) -> dict[str, Any]:
    """What was spent, where anything is protected; epsilon None is no guarantee."""
    if finished.account is None:
        return {}
    account = finished.account
    return {
        "epsilon": account.exactly(),
        "delta": account.delta,
        "warnings": list(account.warnings()),
    }


def _total(metrics: list[Metrics], key: str) -> Any:
    total = sum(row[key] for row in metrics)
    return round(total, 3) if isinstance(total, float) else total


def _write_clients(path: Path, prepared: PreparedRun, finished: Finished) -> None:
    counts = prepared.dealt.owned.counts().tolist()
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["client", "examples", "accuracy"])
        for client, (count, value) in enumerate(
            zip(counts, finished.evaluation.personal.tolist(), strict=True)
        ):
            writer.writerow([client, count, "" if value != value else f"{value:.6f}"])
