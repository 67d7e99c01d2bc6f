"""The commands of `fedsim`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from fedsim.cli import console, tables
from fedsim.cli.options import Common, command
from fedsim.core.errors import InputError
from fedsim.core.jsonl import to_json
from fedsim.core.settings import Settings
from fedsim.runs.catalogue import Script, catalogue, find_script, scenario_names
from fedsim.training.executors.open import Runtime


class Scenarios(click.Group):
    """A group whose commands are the scenarios: names in scenarios/, and paths to scripts.

    What is done with a scenario is `verb`, given the script, its knobs and the common options.
    """

    def __init__(
        self, name: str, verb: Callable[[Script, dict[str, Any], Common], None], text: str
    ) -> None:
        super().__init__(name, help=text, subcommand_metavar="SCENARIO [OPTIONS]")
        self._verb = verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the scenarios."""
        return scenario_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of one scenario."""
        script = find_script(cmd_name)
        return command(
            script.name, script.build, lambda knobs, common: self._verb(script, knobs, common)
        )


def run(script: Script, knobs: dict[str, Any], common: Common) -> None:
    """Run a scenario on the cohort runtime or on Ray; the server is in this process."""
    from fedsim.core.profile import Profile
    from fedsim.flower.in_process import run_in_process
    from fedsim.runs import runner
    from fedsim.runs.forecast import refuse_no_round
    from fedsim.server.setup import check_scenario, prepare
    from fedsim.training.executors.open import open_executor

    if common.resume and common.out is None:
        raise InputError("run: --out must say which run to resume; got none. Add --out DIR.")
    out = common.out or runner.default_folder(script.name)
    if script.kind == "study":
        run_study(script, knobs, common, out)
        return
    settings = common.settings
    if common.resume:
        settings = runner.resumed(out, settings)
    elif out.exists():
        raise InputError(
            f"run: --out must be a new folder; got {str(out)!r}, which exists. "
            "Choose another, or add --resume to go on with that run."
        )
    settings = _placed(settings, common.runtime)
    scenario = common.applied_to(script.build(**knobs))
    check_scenario(scenario, settings)
    profile = Profile()
    with profile.part("start"), console.waiting(f"reading {scenario.data.name}"):
        prepared = prepare(scenario, settings)
    refuse_no_round(prepared)
    knobs = _all_knobs(knobs, common)
    description = runner.describe(script.name, knobs, prepared, common.runtime)
    with ExitStack() as stack:
        with profile.part("start"):
            executor = stack.enter_context(
                open_executor(
                    prepared.trainer,
                    prepared.workers,
                    prepared.templates,
                    common.runtime,
                    profile,
                )
            )
        progress = stack.enter_context(console.Progress(script.name))
        summary = run_in_process(
            prepared,
            description,
            progress,
            executor,
            out=out,
            resume=common.resume,
            profile=profile if common.profile else None,
        )
    console.show_summary(summary)
    if common.as_json:
        click.echo(to_json(summary, indent=2))


def run_study(script: Script, knobs: dict[str, Any], common: Common, out: Path) -> None:
    """Run every arm of a study with every seed; print the table and the verdicts."""
    from fedsim.server.setup import check_scenario
    from fedsim.studies.runner import Order, conduct
    from fedsim.studies.study import check_study

    if common.profile or common.runtime != "cohort":
        raise InputError(
            "run: a study takes neither --profile nor --runtime; got one of them. Leave it out, "
            "or run an arm as a scenario of its own."
        )
    if common.epsilon is not None:
        raise InputError(
            "run: a study takes no --epsilon, as its arms have budgets of their own; got "
            f"{common.epsilon:g}. Leave it out, or run an arm as a scenario of its own."
        )
    if out.exists() and not common.resume:
        raise InputError(
            f"run: --out must be a new folder; got {str(out)!r}, which exists. "
            "Choose another, or add --resume to go on with that study."
        )
    order = Order(
        script=script.reference,
        knobs=knobs,
        settings=common.settings,
        rounds=common.rounds,
        cohort=common.cohort,
        out=out,
        canaries=common.canaries,
    )
    study = order.study()
    check_study(study)
    for arm in study.arms:
        check_scenario(arm.scenario, common.settings)
    out.mkdir(parents=True, exist_ok=True)
    with console.StudyProgress(script.name, len(study.arms) * study.seeds, str(out)) as progress:
        report = conduct(order, study, progress.run_done)
    tables.show_study(report, str(out))
    if common.as_json:
        click.echo((out / "study.json").read_text(encoding="utf-8"))


def plan(script: Script, knobs: dict[str, Any], common: Common) -> None:
    """Say what a run would be, and what it would cost, without training anything."""
    from fedsim.runs import runner  # noqa: F401  # a run has its libraries in memory, too
    from fedsim.runs.forecast import forecast
    from fedsim.server.setup import check_scenario, prepare
    from fedsim.training.executors.open import open_executor

    if script.kind == "study":
        raise InputError(
            f"plan: SCENARIO must be a scenario; got {script.name}, a study of several. "
            "Plan the scenario that its arms vary (fedsim list)."
        )
    settings = _placed(common.settings, common.runtime)
    scenario = common.applied_to(script.build(**knobs))
    check_scenario(scenario, settings)
    with console.waiting(f"reading {scenario.data.name}"):
        prepared = prepare(scenario, settings)
    with (
        console.waiting("timing a few clients"),
        open_executor(
            prepared.trainer, prepared.workers, prepared.templates, common.runtime
        ) as executor,
    ):
        expected = forecast(prepared, executor)
    console.show_plan(script.name, expected)
    if common.as_json:
        click.echo(to_json(expected, indent=2))


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
def fedsim() -> None:
    """The root of the command line."""


@fedsim.command("list", help="Scenarios, strategies, mechanisms, datasets, with one line each.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(as_json: bool) -> None:
    """Show the catalogue."""
    if as_json:
        click.echo(json.dumps(catalogue(), indent=2))
    else:
        console.show_catalogue(catalogue())


@fedsim.command("compare", help="One table and one figure of several runs, over their seeds.")
@click.argument(
    "runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN_DIR..."
)
@click.option(
    "--target", type=float, help="Accuracy to reach (0 to 1).  [default: the lowest final one]"
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where compare.png and compare.json go."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def compare_(runs: tuple[Path, ...], target: float | None, out: Path | None, as_json: bool) -> None:
    """Compare run folders."""
    from dataclasses import asdict, is_dataclass

    from fedsim.runs import compare

    if target is not None and not 0 < target <= 1:
        raise InputError(f"compare: target must be in (0, 1]; got {target}. Use 0.8 for 80 %.")
    groups = compare.group_runs([compare.read_run(path) for path in runs])
    rows = compare.table(groups, target)
    tables.show_comparison(rows)
    plain = [
        {
            key: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v
            for key, v in row.items()
        }
        for row in rows
    ]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "compare.json").write_text(to_json(plain, indent=2), encoding="utf-8")
        compare.draw(out / "compare.png", groups, rows)
        console.say(f"figure and numbers in {out}")
    if as_json:
        click.echo(to_json(plain, indent=2))


@fedsim.command(
    "audit",
    help="""What a private run claims, recomputed from its ledger, and whether its traces fit.

    \b
    Exit code: 0 nothing speaks against the claim, 2 a wrong input, 3 there is a bug, 4 the claim is
    not supported, 5 too few canaries.
    """,
)
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN_DIR")
@click.option("--delta", type=float, help="Where epsilon is given.  [default: the run's own]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_context
def audit_(context: click.Context, folder: Path, delta: float | None, as_json: bool) -> None:
    """Audit a run folder."""
    with console.waiting("asking the accountants"):
        found = import_module("privacy.auditing.run.report").audit(folder, delta)
    tables.show_audit(str(folder), found.lines())
    if found.draw(folder / "plots" / "audit.png"):
        console.say(f"picture in {folder / 'plots' / 'audit.png'}")
    if as_json:
        click.echo(to_json(found.as_dict(), indent=2))
    context.exit(found.exit_code)


fedsim.add_command(
    Scenarios("run", run, "Run SCENARIO: a name from `fedsim list`, or a path to a script.")
)
fedsim.add_command(
    Scenarios("plan", plan, "What a run of SCENARIO would be and cost; trains nothing.")
)


def _placed(settings: Settings, runtime: Runtime) -> Settings:
    """The settings, with as many workers as Ray has room for where Ray is to say."""
    if runtime != "ray" or settings.workers is not None:
        return settings
    from fedsim.training.executors.ray_actors import connect

    return replace(settings, workers=connect())


def _all_knobs(knobs: dict[str, Any], common: Common) -> dict[str, Any]:
    """The scenario's knobs and the common ones that stand in for a knob it lacks."""
    names = ("rounds", "cohort", "epsilon", "canaries")
    extra = {name: getattr(common, name) for name in names}
    return {**knobs, **{name: value for name, value in extra.items() if value is not None}}
