"""The knobs of a scenario or study function: names, types, defaults and help texts.

A knob's text is in the Args section of the function's docstring, or in the annotation:
`Annotated[int, "clients a round"]`, the form of knobs that several scenarios share.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fedsim.core.errors import InputError
from fedsim.runs.source import SourceModule


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One parameter of a scenario.

    type: int, float, str or bool. choices: the words it may be, where these are limited.
    """

    name: str
    type: type
    choices: tuple[str, ...] | None
    default: Any
    text: str


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a scenario's function takes. text: its docstring, without the Args section."""

    text: str
    knobs: tuple[Knob, ...]


def read_signature(module: SourceModule, name: str) -> Signature:
    """The signature of a function, from its source.

    Raises:
        Unreadable: the source alone does not say it.
        InputError: a parameter has no default, or a type that the command line cannot give.
    """
    home, function = module.function(name)
    found = {}
    for argument, default in _parameters(function.args):
        if default is None:
            raise _no_default(argument.arg)
        hint = str if argument.annotation is None else home.evaluate(argument.annotation)
        found[argument.arg] = (hint, home.evaluate(default))
    return _signature(ast.get_docstring(function) or "", found)


def signature_of(function: Callable[..., Any]) -> Signature:
    """The signature of an imported function.

    Raises:
        InputError: a parameter has no default, or a type that the command line cannot give.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            raise _no_default(name)
        found[name] = (hints.get(name, str), parameter.default)
    return _signature(inspect.getdoc(function) or "", found)


def argument_texts(docstring: str) -> dict[str, str]:
    """The texts of the Args section: argument -> what it means."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", docstring, re.MULTILINE)
    found: dict[str, str] = {}
    for line in section.group(1).splitlines() if section else ():
        start = re.match(r"^ {4}(\w+): (.*)$", line)
        if start:
            found[start.group(1)] = start.group(2)
        elif found and line.strip():
            last = next(reversed(found))
            found[last] += " " + line.strip()
    return {name: _sentence(text) for name, text in found.items()}


def _parameters(given: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Parameters and their defaults, None where there is none."""
    positional = [*given.posonlyargs, *given.args]
    missing = len(positional) - len(given.defaults)
    yield from zip(positional, [*[None] * missing, *given.defaults], strict=True)
    yield from zip(given.kwonlyargs, given.kw_defaults, strict=True)
    yield from ((one, None) for one in (given.vararg, given.kwarg) if one is not None)


def _signature(doc: str, found: Mapping[str, tuple[Any, Any]]) -> Signature:
    texts = argument_texts(doc)
    knobs = (_knob(name, hint, default, texts) for name, (hint, default) in found.items())
    return Signature(text=doc.split("\n\nArgs:")[0], knobs=tuple(knobs))


def _knob(name: str, hint: Any, default: Any, texts: Mapping[str, str]) -> Knob:
    text = texts.get(name, "")
    if typing.get_origin(hint) is Annotated:
        hint, *notes = typing.get_args(hint)
        text = text or _sentence(next((note for note in notes if isinstance(note, str)), ""))
    kind, choices = _type_and_choices(name, hint)
    return Knob(name=name, type=kind, choices=choices, default=default, text=text)


def _type_and_choices(name: str, hint: Any) -> tuple[type, tuple[str, ...] | None]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        return str, tuple(str(choice) for choice in typing.get_args(hint))
    if hint in (int, float, str, bool):
        return hint, None
    raise InputError(
        f"scenario: {name} must be int, float, str, bool or a Literal of words; got {hint}. "
        "Make it one of these."
    )


def _no_default(name: str) -> InputError:
    return InputError(f"scenario: {name} must have a default; got none. Every knob needs one.")


def _sentence(text: str) -> str:
    """With a capital and, unless it is empty, a full stop."""
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else ".")
