"""Scenarios, studies, and what scenarios are made of, by name: only this file knows their folders.

Lists and signatures are read from sources (`fedsim.runs.source`); a script is imported when it
builds something.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from fedsim.core.errors import InputError, unknown
from fedsim.runs.signature import Signature, read_signature, signature_of
from fedsim.runs.source import SourceModule, Unreadable, module_path, read_source

Kind = Literal["scenario", "study"]
_KINDS: tuple[Kind, ...] = ("study", "scenario")  # a study may import a scenario
_FOLDERS: dict[Kind, str] = {"scenario": "scenarios", "study": "scenarios.studies"}
_PARTS = {
    "strategies": ("strategies",),
    "step_rules": ("strategies.step_rules",),
    "batch_plans": ("strategies.batch_plans",),
    "client_selections": ("strategies.client_selection",),
    "aggregators": ("strategies.aggregators",),
    "mechanisms": ("privacy",),
    "datasets": ("fedsim.data",),
    "models": ("fedsim.models.vision", "fedsim.models.transformer"),
}


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script in scenarios/ or anywhere: its one function builds a scenario, or a study.

    reference: the name or path under which `find_script` finds it again.
    summary: the first line of the script's docstring. doc: all of it.
    build: takes the knobs as keywords; imports the script.
    """

    name: str
    reference: str
    kind: Kind
    summary: str
    doc: str
    signature: Signature
    build: Callable[..., Any]

    def nearest_scenario(self) -> str:
        """The single run that a study's docstring names as the closest to its arms."""
        named = re.search(r"`fedsim plan (\w+)`", self.doc)
        return "digits_quickstart" if named is None else named.group(1)


def find_script(reference: str) -> Script:
    """The scenario or study of that name, or in that file.

    Raises:
        InputError: there is none, or the file has no function `scenario` or `study`.
    """
    path, load = _script_file(reference)
    try:
        source = read_source(path)
    except SyntaxError as error:
        raise _no_import(path, error) from error
    kind = next((kind for kind in _KINDS if source.defines(kind)), None)
    if kind is None:
        raise InputError(
            f"run: {reference} must have a function scenario(*, knob=...); got none. "
            "Look at scenarios/digits_quickstart.py for the form."
        )
    try:
        signature = read_signature(source, kind)
    except Unreadable:
        signature = signature_of(getattr(load(), kind))
    return Script(
        name=path.stem,
        reference=reference,
        kind=kind,
        summary=_first_line(source.doc),
        doc=source.doc,
        signature=signature,
        build=lambda **knobs: getattr(load(), kind)(**knobs),
    )


def script_names() -> list[str]:
    """The names in scenarios/ and scenarios/studies/."""
    return sorted(name for kind in _KINDS for name in _scripts(kind))


def script_summaries(kind: Kind) -> dict[str, str]:
    """The scenarios, or the studies: name -> one line."""
    return {name: _first_line(source.doc) for name, source in _scripts(kind).items()}


def catalogue() -> dict[str, dict[str, str]]:
    """Everything that can be named, with one line each: kind -> name -> line."""
    found = {"scenarios": script_summaries("scenario"), "studies": script_summaries("study")}
    for kind, modules in _PARTS.items():
        found[kind] = {name: line for module in modules for name, line in _functions(module)}
    return found


def _scripts(kind: Kind) -> dict[str, SourceModule]:
    """The scripts of a folder, by name; modules without the function are helpers."""
    home = module_path(_FOLDERS[kind])
    paths = () if home is None else sorted(home.parent.glob("*.py"))
    sources = {path.stem: read_source(path) for path in paths}
    return {name: source for name, source in sources.items() if source.defines(kind)}


def _functions(module: str) -> list[tuple[str, str]]:
    """The public functions of a module, with the first line of what each says of itself."""
    path = module_path(module)
    if path is None:
        return []
    source = read_source(path)
    lines = []
    for name in source.public_functions():
        _, function = source.function(name)
        lines.append((name, _without_box_lines(_first_line(ast.get_docstring(function) or ""))))
    return lines


def _script_file(reference: str) -> tuple[Path, Callable[[], ModuleType]]:
    """A script's file, and what imports it (once)."""
    if reference.endswith(".py") or "/" in reference:
        path = Path(reference)
        if not path.is_file():
            raise InputError(
                f"run: scenario must be a name or a script that exists; got {reference!r}. "
                f"Known names: {', '.join(script_names())}."
            )
        return path, cache(lambda: _load_file(path))
    kind = next((kind for kind in _KINDS if reference in _scripts(kind)), None)
    if kind is None:
        raise unknown("run", "scenario", reference, script_names())
    name = f"{_FOLDERS[kind]}.{reference}"
    listed = module_path(name)
    assert listed is not None
    return listed, lambda: importlib.import_module(name)


def _load_file(path: Path) -> ModuleType:
    import cloudpickle

    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"run: scenario must be a Python file; got {str(path)!r}. Name it *.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses of the script look themselves up
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise _no_import(path, error) from error
    if sys.modules.get(path.stem) is module:
        cloudpickle.register_pickle_by_value(module)  # workers cannot import it by its name
    return module


def _no_import(path: Path, error: Exception) -> InputError:
    return InputError(
        f"run: {path} must be a script that can be imported; got {error}. Correct the script."
    )


def _without_box_lines(line: str) -> str:
    """Without "(lines 3-5)", which means lines of a paper's algorithm box."""
    return re.sub(r" \(lines? [^)]*\)", "", line)


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0]
