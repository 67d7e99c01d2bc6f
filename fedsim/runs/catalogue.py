"""Looking scenarios and the other catalogues up by name: only this file knows their folders."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import cloudpickle

from fedsim.core.errors import InputError, unknown

_KINDS: tuple[Literal["scenario", "study"], ...] = (
    "study",
    "scenario",
)  # a study may import a scenario


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script in scenarios/ or anywhere: its one function builds a scenario, or a study.

    reference: the name or path under which `find_script` finds it again.
    """

    name: str
    reference: str
    kind: Literal["scenario", "study"]
    build: Callable[..., Any]
    summary: str


def find_script(reference: str) -> Script:
    """The scenario of that name, or in that file.

    Raises:
        InputError: there is none, or the file has no function `scenario` or `study`.
    """
    if reference.endswith(".py") or "/" in reference:
        name, module = Path(reference).stem, _load_file(Path(reference))
    elif reference in scenario_names():
        name, module = reference, importlib.import_module(_scripts()[reference])
    else:
        raise unknown("run", "scenario", reference, scenario_names())
    for kind in _KINDS:
        function = getattr(module, kind, None)
        if callable(function):
            summary = _first_line(module.__doc__)
            return Script(
                name=name, reference=reference, kind=kind, build=function, summary=summary
            )
    raise InputError(
        f"run: {reference} must have a function scenario(*, knob=...); got none. "
        "Look at scenarios/digits_quickstart.py for the form."
    )


def scenario_names() -> list[str]:
    """The names in scenarios/."""
    return sorted(_scripts())


def _scripts() -> dict[str, str]:
    """The scenarios and studies: name -> module."""
    return {
        name: f"{package}.{name}"
        for package in ("scenarios", "scenarios.studies")
        for name, source in _sources(package).items()
        if _defines(source)
    }


def catalogue() -> dict[str, dict[str, str]]:
    """Everything that can be named, with one line each: kind -> name -> line."""
    scripts = _sources("scenarios") | _sources("scenarios.studies")
    found = {"scenarios": {name: _summary(scripts[name]) for name in scenario_names()}}
    for kind, packages in _CATALOGUES.items():
        modules = [importlib.import_module(package) for package in packages]
        found[kind] = {n: _line(getattr(module, n)) for module in modules for n in module.__all__}
    data = importlib.import_module("fedsim.data")
    found["datasets"] = {
        name: _first_line(getattr(data, name).__doc__)
        for name in data.__all__
        if inspect.isfunction(getattr(data, name))
    }
    return found


_AXES = ("step_rules", "batch_plans", "client_selection", "aggregators")
_CATALOGUES = {
    "strategies": ("strategies", *(f"strategies.{axis}" for axis in _AXES)),
    "mechanisms": ("privacy",),
}


def _sources(package: str) -> dict[str, Path]:
    folder = Path(next(iter(importlib.import_module(package).__path__)))
    return {
        found.name: folder / f"{found.name}.py"
        for found in pkgutil.iter_modules([str(folder)])
        if not found.ispkg
    }


def _defines(source: Path) -> bool:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name in _KINDS for node in tree.body)


def _summary(source: Path) -> str:
    return _first_line(ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))))


def _line(function: Callable[..., Any]) -> str:
    """What a function makes, if it is no strategy or mechanism, and its docstring's first line."""
    made = str(inspect.signature(function).return_annotation).split("[")[0]
    line = re.sub(r" \(lines? [^)]*\)", "", _first_line(function.__doc__))
    return f"[{_MADE[made]}] {line}" if made in _MADE else line


_MADE = {
    "StepRule": "step rule",
    "BatchPlan": "batch plan",
    "Selection": "selection",
    "Aggregator": "aggregator",
}


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(
            f"run: scenario must be a name or a script that exists; got {str(path)!r}. "
            f"Known names: {', '.join(scenario_names())}."
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"run: scenario must be a Python file; got {str(path)!r}. Name it *.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses of the script look themselves up
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise InputError(
            f"run: {path} must be a script that can be imported; got {error}. Mend it."
        ) from error
    if sys.modules.get(path.stem) is module:
        cloudpickle.register_pickle_by_value(module)  # workers cannot import it by its name
    return module
