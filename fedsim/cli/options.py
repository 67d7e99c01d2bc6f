"""Command-line options from a scenario's signature, and the options that all scenarios share."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click

from fedsim.core.errors import InputError
from fedsim.core.scenario import Scenario
from fedsim.core.settings import Settings


class AutoOr(click.ParamType[int | None]):
    """`auto` or a whole number."""

    name = "auto|N"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | None:
        """None for auto."""
        if value is None or value == "auto":
            return None
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is not auto or a whole number.", param, ctx)


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options of every scenario, as given. rounds to canaries: None where left out."""

    settings: Settings
    rounds: int | None
    cohort: int | None
    epsilon: float | None
    canaries: int | None
    runtime: Literal["cohort", "ray"]
    out: Path | None
    resume: bool
    profile: bool
    as_json: bool

    def applied_to(self, scenario: Scenario) -> Scenario:
        """The scenario with the common knobs that it has no knob of its own for."""
        if self.rounds is not None:
            scenario = replace(scenario, rounds=self.rounds)
        if self.epsilon is not None:
            scenario = replace(scenario, budget=self.epsilon)
        if self.canaries is not None:
            scenario = replace(scenario, canaries=self.canaries)
        return scenario if self.cohort is None else replace(scenario, cohort=self.cohort)


_COMMON: tuple[click.Option, ...] = (
    click.Option(["--rounds"], type=int, help="Server steps."),
    click.Option(["--cohort"], type=int, help="Clients a round."),
    click.Option(
        ["--epsilon"],
        type=float,
        help="Privacy budget: no round is begun that would exceed it.  [default: no limit]",
    ),
    click.Option(
        ["--canaries"],
        type=int,
        help="Made-up clients or examples, each in or out by a coin, by which `fedsim audit` "
        "measures what the run leaks.",
    ),
    click.Option(
        ["--seed"], type=int, default=1, show_default=True, help="Same seed, same numbers."
    ),
    click.Option(
        ["--device"],
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where tensors live; auto takes a GPU if there is one.",
    ),
    click.Option(
        ["--runtime"],
        type=click.Choice(["cohort", "ray"]),
        default="cohort",
        show_default=True,
        help="Where clients run: on this machine, or on Ray's. For Flower's own engine see "
        "docs/guides/flower.md.",
    ),
    click.Option(
        ["--workers"],
        type=AutoOr(),
        default="auto",
        show_default=True,
        help="Processes that train; auto takes one for each core or GPU where that pays.",
    ),
    click.Option(
        ["--width"],
        type=AutoOr(),
        default="auto",
        show_default=True,
        help="How many clients train as one program.",
    ),
    click.Option(
        ["--precision"],
        type=click.Choice(["float32", "tf32", "bf16"]),
        default="float32",
        show_default=True,
        help="Of the clients' arithmetic; evaluation is always float32.",
    ),
    click.Option(
        ["--data-dir"],
        type=click.Path(path_type=Path),
        envvar="FEDSIM_DATA",
        show_envvar=True,
        help="Folder of data files, as published.",
    ),
    click.Option(
        ["--out"],
        type=click.Path(path_type=Path),
        help="Run folder.  [default: runs/<scenario>-<time>]",
    ),
    click.Option(["--resume"], is_flag=True, help="Go on with the run in --out."),
    click.Option(
        ["--profile"], is_flag=True, help="Write where the time went, with a picture of it."
    ),
    click.Option(["--json", "as_json"], is_flag=True, help="One JSON document on stdout."),
)


def command(
    name: str, function: Callable[..., Any], run: Callable[[dict[str, Any], Common], None]
) -> click.Command:
    """A command whose options are the function's parameters and the common ones.

    Args:
        name: the command's name.
        function: a scenario or study function; its docstring's Args section gives the help texts.
        run: called with the knobs and the common options.
    """
    own = own_knobs(function)
    common = [option for option in _COMMON if option.name not in {knob.name for knob in own}]

    def callback(**given: Any) -> None:
        knobs = {str(knob.name): given.pop(str(knob.name)) for knob in own}
        run(knobs, _common(given))

    text = inspect.getdoc(function) or ""
    return click.Command(
        name, callback=callback, params=[*own, *common], help=text.split("\n\nArgs:")[0]
    )


def own_knobs(function: Callable[..., Any]) -> list[click.Option]:
    """One option for each parameter of a scenario function.

    Raises:
        InputError: a parameter has no default or a type that the command line cannot give.
    """
    texts = argument_texts(inspect.getdoc(function) or "")
    hints = typing.get_type_hints(function)
    options = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            raise InputError(
                f"scenario: {name} must have a default; got none. Every knob needs one."
            )
        kind, word = _click_type(name, hints.get(name, str)), f"--{name.replace('_', '-')}"
        flag = {"is_flag": True} if kind is bool and parameter.default is False else {}
        options.append(
            click.Option(
                [word, name],
                type=kind,
                default=parameter.default,
                show_default=parameter.default is not None and not flag,
                help=texts.get(name, ""),
                **flag,
            )
        )
    return options


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
    return {name: text[:1].upper() + text[1:] for name, text in found.items()}


def _click_type(name: str, hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        return click.Choice([str(choice) for choice in typing.get_args(hint)])
    if hint in (int, float, str, bool):
        return hint
    raise InputError(
        f"scenario: {name} must be int, float, str, bool or a Literal of words; got {hint}. "
        "Make it one of these."
    )


def _common(given: Mapping[str, Any]) -> Common:
    settings = Settings(
        seed=given["seed"],
        device=given["device"],
        width=given["width"],
        workers=given["workers"],
        precision=given["precision"],
        data_dir=given["data_dir"],
    )
    return Common(
        settings=settings,
        rounds=given.get("rounds"),
        cohort=given.get("cohort"),
        epsilon=given.get("epsilon"),
        canaries=given.get("canaries"),
        runtime=given["runtime"],
        out=given["out"],
        resume=given["resume"],
        profile=given["profile"],
        as_json=given["as_json"],
    )
