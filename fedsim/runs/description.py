"""run.json: what a run is, so that it can be repeated, resumed and compared."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fedsim.core.ledger import Account
from fedsim.core.scenario import Scenario
from fedsim.core.settings import Settings
from fedsim.runs.folder import read_description
from fedsim.server.setup import PreparedRun

_PACKAGES = ("torch", "flwr", "numpy")


def default_folder(scenario: str) -> Path:
    """`runs/<scenario>-<time>`, with a number where two runs start in the same second."""
    stem = f"{scenario}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder, number = Path("runs") / stem, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{stem}-{number}"
    return folder


def resume_settings(folder: Path, settings: Settings) -> Settings:
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
        "algorithm": _algorithm(prepared),
        "privacy": _privacy(scenario),
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


def _algorithm(prepared: PreparedRun) -> dict[str, Any]:
    """What is learned, and how."""
    scenario = prepared.scenario
    return {
        "strategy": scenario.strategy.name,
        "plan": scenario.plan.name,
        "selection": scenario.selection.name,
        "aggregator": scenario.aggregator.name,
        **_attack(prepared),
        "task": scenario.task.name,
        "parameters": sum(t.numel() for t in prepared.initial_params.values()),
    }


def _privacy(scenario: Scenario) -> dict[str, Any]:
    """What is protected, from whom, and by whom."""
    mechanism = scenario.mechanism
    return {
        "mechanism": mechanism.name,
        "unit": mechanism.unit,
        "relation": mechanism.relation,
        "noise_by": mechanism.noise_by,
        "protects_from": mechanism.protects_from,
        "sampling": scenario.selection.sampling.words,
        "batches": scenario.plan.sampling.words,
        "statement": mechanism.statement,
        "budget": scenario.budget,
        **_delta(mechanism.account()),
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
