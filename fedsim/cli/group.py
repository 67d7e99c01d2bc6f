"""The `fedsim` command and its sub-commands: what they take. `commands` has what they do.

Nothing here imports torch or flwr, so that `--help` and `fedsim list` answer at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fedsim.cli.listing import text_of
from fedsim.cli.options import Common, command
from fedsim.core.errors import InputError
from fedsim.runs.catalogue import Script, catalogue, find_script, script_names, script_summaries

_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


class Scenarios(click.Group):
    """A group with a command for each scenario and study, and for any path to a script.

    A command's options are the script's knobs. It calls `verb` with the script, the knobs and the
    common options.
    """

    def __init__(
        self, name: str, verb: Callable[[Script, dict[str, Any], Common], None], text: str
    ) -> None:
        super().__init__(name, help=text, subcommand_metavar="SCENARIO [OPTIONS]")
        self._verb = verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the scenarios and studies."""
        return script_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of one scenario or study."""
        script = find_script(cmd_name)
        return command(script, lambda knobs, common: self._verb(script, knobs, common))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Scenarios and studies, with one line each."""
        with formatter.section("Scenarios"):
            formatter.write_dl(list(script_summaries("scenario").items()))
        with formatter.section("Studies"):
            formatter.write_dl(list(script_summaries("study").items()))


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Simulate federated and private learning: hundreds of clients on one machine.

    \b
    fedsim list                                    what there is
    fedsim run digits_quickstart --rounds 10       run a scenario, with any of its knobs
    fedsim run fashion_mnist_dirichlet --help      the knobs of one scenario
    fedsim compare runs/a runs/b                   a table and a figure of several runs
    fedsim audit runs/a                            is the privacy budget of a run true?
    """,
)
def root() -> None:
    """The root of the command line."""


@root.command(
    "list", help="Scenarios, studies, strategies and their parts, mechanisms, datasets, models."
)
@_json_option
def list_(as_json: bool) -> None:
    """Show the catalogue."""
    click.echo(json.dumps(catalogue(), indent=2) if as_json else text_of(catalogue()))


@root.command("compare", help="One table and one figure of several runs, over their seeds.")
@click.argument(
    "runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN_DIR..."
)
@click.option(
    "--target", type=float, help="Accuracy to reach (0 to 1).  [default: the lowest final one]"
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where compare.png and compare.json go."
)
@_json_option
def compare_(runs: tuple[Path, ...], target: float | None, out: Path | None, as_json: bool) -> None:
    """Compare run folders."""
    from fedsim.cli import commands

    commands.compare(runs, target=target, out=out, as_json=as_json)


@root.command(
    "audit",
    help="""What a private run claims, recomputed from its ledger, and whether its traces fit.

    \b
    Exit code: 0 nothing speaks against the claim, 2 a wrong input, 3 there is a bug, 4 the claim is
    not supported, 5 too few canaries.
    """,
)
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN_DIR")
@click.option("--delta", type=float, help="Where epsilon is given.  [default: the run's own]")
@_json_option
@click.pass_context
def audit_(context: click.Context, folder: Path, delta: float | None, as_json: bool) -> None:
    """Audit a run folder."""
    from fedsim.cli import commands

    context.exit(commands.audit(folder, delta=delta, as_json=as_json))


def _run(script: Script, knobs: dict[str, Any], common: Common) -> None:
    from fedsim.cli import commands

    commands.run(script, knobs, common)


def _plan(script: Script, knobs: dict[str, Any], common: Common) -> None:
    if script.kind == "study":
        raise InputError(
            f"plan: SCENARIO must be a scenario; got {script.name}, a study of several. "
            f"Plan a single run that is like its arms: fedsim plan {script.nearest_scenario()}."
        )
    from fedsim.cli import commands

    commands.plan(script, knobs, common)


root.add_command(
    Scenarios(
        "run",
        _run,
        "Run SCENARIO: a scenario or a study from `fedsim list`, or a path to a script. Of a study "
        "every arm is run with every seed.",
    )
)
root.add_command(
    Scenarios(
        "plan",
        _plan,
        "What a run of SCENARIO would be and cost; trains nothing. A study has no plan: plan the "
        "single run that is closest to its arms.",
    )
)
