"""What the commands of `fedsim` do. `group` has what they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import click

from fedsim.cli import console
from fedsim.cli.options import Common
from fedsim.core.errors import InputError
from fedsim.core.jsonl import to_json
from fedsim.runs.catalogue import Script


def run(script: Script, knobs: dict[str, Any], common: Common) -> None:
    """Run a scenario on the cohort runtime or on Ray; the server is in this process.

    Raises:
        InputError: it cannot be run as asked, or --resume comes without --out.
    """
    from fedsim.runs.description import default_folder
    from fedsim.runs.runner import run_request

    if common.resume and common.out is None:
        raise InputError("run: --out must say which run to resume; got none. Add --out DIR.")
    out = common.out or default_folder(script.name)
    if script.kind == "study":
        run_study(script, knobs, common, out)
        return
    with console.Progress(script.name) as progress:
        result = run_request(
            common.request(script, knobs),
            out=out,
            resume=common.resume,
            callbacks=(progress.callback,),
            keep_profile=common.profile,
        )
    summary = result.summary | {"folder": str(result.folder)}
    console.show_summary(console.human(common.as_json), summary)
    if common.as_json:
        click.echo(to_json(summary, indent=2))


def run_study(script: Script, knobs: dict[str, Any], common: Common, out: Path) -> None:
    """Run every arm of a study with every seed; print the table and the verdicts.

    Raises:
        InputError: an option does not go with a study, or an arm cannot be run as asked.
    """
    from fedsim.cli import tables
    from fedsim.runs.folder import refuse_existing
    from fedsim.studies.runner import Order, checked, conduct

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
    if not common.resume:
        refuse_existing(out)
    order = Order(
        script=script.reference,
        knobs=knobs,
        settings=common.settings,
        rounds=common.rounds,
        cohort=common.cohort,
        out=out,
        canaries=common.canaries,
    )
    study = checked(order)
    with console.StudyProgress(script.name, len(study.arms) * study.seeds, str(out)) as progress:
        report = conduct(order, study, progress.run_done)
    tables.show_study(console.human(common.as_json), report, str(out))
    if common.as_json:
        click.echo((out / "study.json").read_text(encoding="utf-8"))


def plan(script: Script, knobs: dict[str, Any], common: Common) -> None:
    """Say what a run would be, and what it would cost, without training anything.

    Raises:
        InputError, PrivacyError: it cannot be run as asked.
    """
    from fedsim.runs.forecast import plan_request

    asked = common.request(script, knobs)
    with console.waiting(f"reading {asked.scenario.data.name}, and timing a few clients"):
        expected = plan_request(asked)
    console.show_plan(console.human(common.as_json), script.name, expected)
    if common.as_json:
        click.echo(to_json(expected, indent=2))


def compare(
    folders: Sequence[Path], *, target: float | None, out: Path | None, as_json: bool
) -> None:
    """Compare run folders: one table, and one figure where `out` is given.

    Raises:
        InputError: the target is not in (0, 1], or a folder is no run.
    """
    from fedsim.cli import tables
    from fedsim.runs import compare as comparison

    if target is not None:
        comparison.check_target(target)
    groups = comparison.group_runs([comparison.read_run(path) for path in folders])
    rows = comparison.table(groups, target)
    tables.show_comparison(console.human(as_json), rows)
    document = to_json([_as_plain(row) for row in rows], indent=2)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "compare.json").write_text(document, encoding="utf-8")
        comparison.draw(out / "compare.png", groups, rows)
        console.say(f"figure and numbers in {out}")
    if as_json:
        click.echo(document)


def audit(folder: Path, *, delta: float | None, as_json: bool) -> int:
    """Audit a run folder; gives the exit code."""
    from fedsim.cli import tables
    from privacy.auditing.run.report import audit as audit_run

    with console.waiting("recomputing the privacy budget"):
        found = audit_run(folder, delta)
    tables.show_audit(console.human(as_json), str(folder), found.lines())
    if found.draw(folder / "plots" / "audit.png"):
        console.say(f"picture in {folder / 'plots' / 'audit.png'}")
    if as_json:
        click.echo(to_json(found.as_dict(), indent=2))
    return found.exit_code


def _as_plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table, with records as dicts."""
    return {
        key: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for key, value in row.items()
    }
