"""What a user asks to run, by name, by path or as a record, made into one request."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fedsim.core.errors import InputError, unknown
from fedsim.core.scenario import Scenario
from fedsim.core.settings import Settings
from fedsim.core.task import Task
from fedsim.runs.catalogue import Script, find_script, script_names
from fedsim.runs.folder import read_description
from fedsim.runs.result import Result

UNNAMED = "scenario"  # of a Scenario that came without a script
_FIELDS = {"rounds": "rounds", "cohort": "cohort", "canaries": "canaries", "epsilon": "budget"}
"""Knobs of every scenario -> the field that they set, where its script has no such knob."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to run. knobs: what the scenario was made from, for run.json. runtime: for workers."""

    name: str
    scenario: Scenario
    knobs: Mapping[str, Any]
    settings: Settings
    runtime: Any = "cohort"


def read_request(scenario: Scenario | str | Path, seed: int, knobs: Mapping[str, Any]) -> Request:
    """The request for a name, a path or a `Scenario`.

    Raises:
        InputError: there is no such scenario or knob.
    """
    settings, runtime, rest = split_settings(seed, knobs)
    if isinstance(scenario, Scenario):
        known = {field.name for field in fields(Scenario)}
        for name in rest:
            if name not in known:
                raise unknown("run", "knob", name, known)
        shown = {name: value for name, value in rest.items() if isinstance(value, int | float)}
        return Request(
            name=UNNAMED,
            scenario=replace(scenario, **rest),
            knobs=shown,
            settings=settings,
            runtime=runtime,
        )
    script = find_script(str(scenario))
    if script.kind == "study":
        raise InputError(
            f"run: scenario must be a single scenario; got {script.name!r}, a study of several. "
            f"Use fedsim.study({script.name!r})."
        )
    made, used = build_scenario(script, rest)
    return Request(name=script.name, scenario=made, knobs=used, settings=settings, runtime=runtime)


def build_scenario(script: Script, knobs: Mapping[str, Any]) -> tuple[Scenario, dict[str, Any]]:
    """The scenario of a script with these knobs; and all its knobs, as run.json has them.

    Raises:
        InputError: there is no such knob.
    """
    own = {knob.name: knob.default for knob in script.signature.knobs}
    for name in knobs:
        if name not in own and name not in _FIELDS:
            raise unknown("run", "knob", name, own.keys() | _FIELDS.keys())
    given = {name: value for name, value in knobs.items() if name in own}
    extra = {name: value for name, value in knobs.items() if name not in own and value is not None}
    made: Scenario = script.build(**(own | given))
    changed = replace(made, **{_FIELDS[name]: value for name, value in extra.items()})
    return changed, own | given | extra


def read_request_again(
    folder: Path, scenario: Scenario | str | Path | None, data_dir: Path | None
) -> Request:
    """The request that a run folder was made by.

    Raises:
        InputError: there is no run in the folder, or its scenario is not known.
    """
    before = read_description(folder)
    ran, knobs = before["settings"], before["knobs"]
    again = {name: ran[name] for name in ("device", "precision", "runtime")}
    again["data_dir"] = data_dir
    if isinstance(scenario, Scenario):
        settings, runtime, _ = split_settings(ran["seed"], again)
        return Request(
            name=before["scenario"],
            scenario=scenario,
            knobs=knobs,
            settings=settings,
            runtime=runtime,
        )
    if scenario is None and before["scenario"] not in script_names():
        raise InputError(
            f"resume: the scenario must be given where it is none of `fedsim list`; got a run of "
            f"{before['scenario']!r}. Write fedsim.resume(folder, scenario)."
        )
    return read_request(scenario or before["scenario"], ran["seed"], knobs | again)


def load_result(folder: Path, scenario: Scenario | str | Path | None) -> Result:
    """The result in a run folder, with its task where the scenario is known.

    Raises:
        InputError: there is no run in the folder.
    """
    before = read_description(folder)
    if isinstance(scenario, Scenario):
        return Result(folder, _ready(scenario.task))
    name = scenario or before.get("scenario")
    if scenario is None and name not in script_names():
        return Result(folder)
    made, _ = build_scenario(find_script(str(name)), before["knobs"])
    return Result(folder, _ready(made.task))


def split_settings(seed: int, knobs: Mapping[str, Any]) -> tuple[Settings, str, dict[str, Any]]:
    """The settings among some knobs, the runtime, and the other knobs."""
    names = {field.name for field in fields(Settings)} - {"seed"}
    given = {name: value for name, value in knobs.items() if name in names}
    rest = {name: value for name, value in knobs.items() if name not in names and name != "runtime"}
    data_dir = given.pop("data_dir", None) or os.environ.get("FEDSIM_DATA")
    settings = Settings(seed=seed, data_dir=Path(data_dir) if data_dir else None, **given)
    return settings, str(knobs.get("runtime", "cohort")), rest


def _ready(task: Task) -> Task:
    """The task, with the frozen weights that it reads or makes before a run."""
    data_dir = os.environ.get("FEDSIM_DATA")
    if task.prepare is None:
        return task
    return task.prepare(Path(data_dir) if data_dir else None)
