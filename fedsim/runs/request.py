"""What a user asks to run, by name, by path or as a record, made into one request."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fedsim.core.errors import InputError, refusal, unknown
from fedsim.core.scenario import Scenario
from fedsim.core.settings import Settings
from fedsim.runs.catalogue import Script, find_script, script_names
from fedsim.runs.folder import read_description
from fedsim.runs.knobs import (
    read_runtime,
    read_settings,
    scenario_knobs,
    scenario_value,
    script_value,
)
from fedsim.runs.result import Result
from fedsim.training.executors.open import Runtime

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
    runtime: Runtime = "cohort"


def read_request(scenario: Scenario | str | Path, seed: int, knobs: Mapping[str, Any]) -> Request:
    """The request for a name, a path or a `Scenario`.

    Raises:
        InputError: there is no such scenario or knob.
    """
    if isinstance(scenario, Scenario):
        settings, runtime, rest = split_settings(seed, knobs)
        made = _with_fields(scenario, rest)
        return Request(
            name=UNNAMED,
            scenario=made,
            knobs=scenario_knobs(made),
            settings=settings,
            runtime=runtime,
        )
    script = _script(scenario)
    if script.kind == "study":
        raise InputError(
            f"run: scenario must be a single scenario; got {script.name!r}, a study of several. "
            f"Use fedsim.study({script.name!r})."
        )
    own = {knob.name for knob in script.signature.knobs}
    settings, runtime, rest = split_settings(seed, knobs, own)
    made, used = build_scenario(script, rest)
    return Request(name=script.name, scenario=made, knobs=used, settings=settings, runtime=runtime)


def build_scenario(script: Script, knobs: Mapping[str, Any]) -> tuple[Scenario, dict[str, Any]]:
    """The scenario of a script with these knobs; and all its knobs, as run.json has them.

    Raises:
        InputError: there is no such knob.
    """
    signature = {knob.name: knob for knob in script.signature.knobs}
    own = {name: knob.default for name, knob in signature.items()}
    given, extra = dict[str, Any](), dict[str, Any]()
    for name, value in knobs.items():
        if name in own:
            given[name] = script_value(signature[name], value)
        elif name not in _FIELDS:
            raise unknown("run", "knob", name, own.keys() | _FIELDS.keys())
        elif value is not None:
            extra[name] = scenario_value(_FIELDS[name], value)
    made: Scenario = script.build(**(own | given))
    changed = replace(made, **{_FIELDS[name]: value for name, value in extra.items()})
    return changed, own | given | extra


def read_request_again(
    folder: Path, scenario: Scenario | str | Path | None, data_dir: Path | str | None
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
        _refuse_other_parts(before, scenario)
        return Request(
            name=before["scenario"],
            scenario=scenario,
            knobs=scenario_knobs(scenario) if before["scenario"] == UNNAMED else knobs,
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
        return Result(folder, scenario.task)
    name = scenario or before.get("scenario")
    if scenario is None and name not in script_names():
        return Result(folder)
    script = find_script(str(name))
    if script.kind == "study":  # a run of one of its arms
        return Result(folder)
    try:
        made, _ = build_scenario(script, before["knobs"])
        return Result(folder, made.task)
    except InputError:  # its knobs are others by now: metrics need no task
        if scenario is not None:
            raise
        return Result(folder)


def split_settings(
    seed: int, knobs: Mapping[str, Any], own: Set[str] = frozenset()
) -> tuple[Settings, Runtime, dict[str, Any]]:
    """The settings among some knobs, the runtime, and the other knobs.

    Args:
        seed: of the run.
        knobs: as given.
        own: the script's, which take the place of settings of the same name, as in a command.

    Raises:
        InputError: a value is of another type than its setting, or none of the choices.
    """
    names = {field.name for field in fields(Settings)} - {"seed"} - own
    given = {name: value for name, value in knobs.items() if name in names}
    elsewhere = names | ({"runtime"} - own)
    rest = {name: value for name, value in knobs.items() if name not in elsewhere}
    given["data_dir"] = given.get("data_dir") or os.environ.get("FEDSIM_DATA") or None
    runtime = "cohort" if "runtime" in own else knobs.get("runtime", "cohort")
    return read_settings(seed, given), read_runtime(runtime), rest


def _with_fields(scenario: Scenario, given: Mapping[str, Any]) -> Scenario:
    """The scenario with some of its fields replaced."""
    known = {field.name for field in fields(Scenario)}
    for name in given:
        if name not in known:
            raise unknown("run", "knob", name, known)
    return replace(scenario, **{name: scenario_value(name, value) for name, value in given.items()})


def _script(scenario: Any) -> Script:
    """The script of a name or path."""
    if not isinstance(scenario, str | Path):
        raise InputError(
            f"run: scenario must be a name, a path to a script or a Scenario; got a "
            f"{type(scenario).__name__}. Use a name from `fedsim list`."
        )
    return find_script(str(scenario))


def _refuse_other_parts(before: Mapping[str, Any], scenario: Scenario) -> None:
    """Refuse to go on with a run with another algorithm than it began with."""
    parts = scenario_knobs(scenario)
    ran = {"mechanism": before["privacy"]["mechanism"], "budget": before["privacy"]["budget"]}
    ran |= {n: before["algorithm"][n] for n in ("strategy", "plan", "selection", "aggregator")}
    for name, value in ran.items():
        if parts[name] != value:
            raise refusal("resume", name, f"the run's, {value!r}", parts[name], "Use that.")
