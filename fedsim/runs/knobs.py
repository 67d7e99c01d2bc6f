"""Values that a user gives from Python: checked, and made what the command line would make them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fedsim.core.attack import Attack
from fedsim.core.dataset import Source, Split
from fedsim.core.errors import refusal
from fedsim.core.machine import Precision
from fedsim.core.sampling import Selection
from fedsim.core.scenario import Aggregator, BatchPlan, Mechanism, Scenario, Strategy
from fedsim.core.settings import Device, Settings
from fedsim.core.task import Task
from fedsim.runs.signature import Knob
from fedsim.training.executors.open import Runtime

_RULES = {int: "a whole number", float: "a number", bool: "True or False", str: "a word"}
_ABSTRACT: dict[type, type] = {int: Integral, float: Real}
_PARTS: dict[str, type] = {
    "data": Source,
    "split": Split,
    "task": Task,
    "strategy": Strategy,
    "plan": BatchPlan,
    "selection": Selection,
    "aggregator": Aggregator,
    "mechanism": Mechanism,
    "attack": Attack,
}
_AUTO = ("width", "workers")
_WORDS: dict[str, tuple[str, ...]] = {
    "device": get_args(Device),
    "precision": get_args(Precision),
    "runtime": get_args(Runtime),
}


def plain_value(who: str, name: str, kind: type, value: Any) -> Any:
    """The value as a plain int, float, bool or str, which NumPy's numbers become.

    Raises:
        InputError: it is of another type.
    """
    logical = isinstance(value, bool | np.bool_)
    fits = isinstance(value, _ABSTRACT.get(kind, kind)) and not logical
    if kind is bool:
        fits = logical
    if not fits:
        remedy = "Leave it out for the default." if value is None else "Write it without quotes."
        if isinstance(value, str) or kind is str:
            remedy = "Write it in quotes." if kind is str else remedy
        elif value is not None:
            remedy = f"Give {_RULES[kind]}."
        raise refusal(who, name, _RULES[kind], value, remedy)
    return kind(value)


def script_value(knob: Knob, value: Any) -> Any:
    """The value of a script's knob; None where that is its default.

    Raises:
        InputError: it is of another type, or none of the choices.
    """
    if value is None and knob.default is None:
        return None
    given = plain_value("run", knob.name, knob.type, value)
    return given if knob.choices is None else _one_of(knob.name, knob.choices, given)


def scenario_value(name: str, value: Any) -> Any:
    """The value of a field of a `Scenario`.

    Raises:
        InputError: it is of another type.
    """
    if value is None and name in ("budget", "attack"):
        return None
    if name not in _PARTS:
        return plain_value("run", name, float if name == "budget" else int, value)
    part = _PARTS[name]
    if not isinstance(value, part):
        rule = f"a {part.__name__}"
        raise refusal("run", name, rule, value, "Make one, as by a function of `fedsim list`.")
    return value


def read_settings(seed: Any, given: Mapping[str, Any]) -> Settings:
    """The settings; "auto" is None.

    Raises:
        InputError: a value is of another type, or none of the choices.
    """
    found: dict[str, Any] = {"seed": plain_value("run", "seed", int, seed)}
    for name, value in given.items():
        if name in _AUTO:
            auto = value is None or (isinstance(value, str) and value == "auto")
            found[name] = None if auto else plain_value("run", name, int, value)
        elif name == "data_dir":
            found[name] = read_path(name, value)
        else:
            found[name] = _one_of(name, _WORDS[name], value)
    return Settings(**found)


def read_runtime(value: Any) -> Runtime:
    """The runtime.

    Raises:
        InputError: there is no such runtime.
    """
    runtime: Runtime = _one_of("runtime", _WORDS["runtime"], value)
    return runtime


def read_path(name: str, value: Any) -> Path | None:
    """A path; None where none is given.

    Raises:
        InputError: it is neither a `Path` nor a string.
    """
    if value is not None and not isinstance(value, str | Path):
        raise refusal("run", name, "a path", value, "Give a Path or a string.")
    return None if value is None else Path(value)


def scenario_knobs(scenario: Scenario) -> dict[str, Any]:
    """What run.json says of a `Scenario` without a script: its numbers, and its parts by name."""
    values = {field.name: getattr(scenario, field.name) for field in fields(Scenario)}
    return {name: getattr(value, "name", value) for name, value in values.items()}


def _one_of(name: str, choices: tuple[str, ...], value: Any) -> Any:
    if value not in choices:
        raise refusal("run", name, f"one of {', '.join(choices)}", value, "Choose one of them.")
    return value
