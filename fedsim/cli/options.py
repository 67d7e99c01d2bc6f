"""Command-line options: those of a scenario's knobs, and those that all scenarios share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from fedsim.runs.catalogue import Script
from fedsim.runs.signature import Knob

if TYPE_CHECKING:  # importing these imports torch; a help text needs neither
    from fedsim.core.settings import Settings
    from fedsim.runs.request import Request


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

    seed: int
    device: Literal["auto", "cpu", "cuda"]
    width: int | None
    workers: int | None
    precision: Literal["float32", "tf32", "bf16"]
    data_dir: Path | None
    rounds: int | None
    cohort: int | None
    epsilon: float | None
    canaries: int | None
    runtime: Literal["cohort", "ray"]
    out: Path | None
    resume: bool
    profile: bool
    as_json: bool

    @property
    def settings(self) -> Settings:
        """The seed, and where and how the scenario runs."""
        from fedsim.core.settings import Settings

        return Settings(
            seed=self.seed,
            device=self.device,
            width=self.width,
            workers=self.workers,
            precision=self.precision,
            data_dir=self.data_dir,
        )

    def request(self, script: Script, knobs: Mapping[str, Any]) -> Request:
        """What to run: the script's scenario with its own knobs and the common ones.

        Raises:
            InputError: the scenario cannot be built of these knobs.
        """
        from fedsim.runs.request import Request, build_scenario

        names = ("rounds", "cohort", "epsilon", "canaries")
        common = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in common.items() if value is not None}
        scenario, used = build_scenario(script, {**knobs, **given})
        return Request(
            name=script.name,
            scenario=scenario,
            knobs=used,
            settings=self.settings,
            runtime=self.runtime,
        )


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


def command(script: Script, run: Callable[[dict[str, Any], Common], None]) -> click.Command:
    """A command whose options are the script's knobs and the common ones.

    Args:
        script: a scenario or a study.
        run: called with the knobs and the common options.
    """
    own = [_option(knob) for knob in script.signature.knobs]
    common = [option for option in _COMMON if option.name not in {knob.name for knob in own}]

    def callback(**given: Any) -> None:
        knobs = {str(knob.name): given.pop(str(knob.name)) for knob in own}
        run(knobs, _common(given))

    text = script.signature.text
    if script.kind == "study":
        text += "\n\nA study: every arm is run with every seed, in a folder of its own."
    return click.Command(script.name, callback=callback, params=[*own, *common], help=text)


def _option(knob: Knob) -> click.Option:
    """The option of a knob: `--local-epochs` for `local_epochs`."""
    is_flag = knob.type is bool and knob.default is False
    return click.Option(
        [f"--{knob.name.replace('_', '-')}", knob.name],
        type=knob.type if knob.choices is None else click.Choice(knob.choices),
        default=knob.default,
        show_default=knob.default is not None and not is_flag,
        help=knob.text,
        **({"is_flag": True} if is_flag else {}),
    )


def _common(given: Mapping[str, Any]) -> Common:
    """The common options; a scenario may have knobs of its own in the place of some."""
    values: dict[str, Any] = {field.name: given.get(field.name) for field in fields(Common)}
    return Common(**values)
