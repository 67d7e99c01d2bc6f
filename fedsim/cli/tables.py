"""Tables of several runs, and of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from fedsim.cli.console import in_bytes, percent, say, two_columns
from fedsim.runs.statistics import epsilon_text
from fedsim.studies.runner import Report
from fedsim.studies.study import cells, columns


def show_study(to: Console, report: Report, folder: str) -> None:
    """A study's table and verdicts."""
    study = report.study
    scale, digits, unit = study.shown()
    grid = Table(box=box.SIMPLE_HEAD, title=study.paper, title_justify="left", title_style="bold")
    read = list(dict.fromkeys(name for row in report.rows for name in row.read))
    last = [header for header in columns(study, report.rows) if header not in read]
    _columns(grid, "method", "seeds", unit, f"vs {study.arms[0].name}", *last)
    for row in report.rows:
        grid.add_row(
            row.arm,
            str(row.seeds),
            row.result.text(scale, digits),
            "" if row.difference is None else row.difference.text(scale, digits),
            *cells(study, report.rows, row)[: len(last)],
        )
    to.print(grid)
    if read:  # a table of their own: two would not fit on a line
        beside = Table(box=box.SIMPLE_HEAD)
        _columns(beside, "method", *read, wrapped=True)
        for row in report.rows:
            texts = [row.read[name].text() if name in row.read else "" for name in read]
            beside.add_row(row.arm, *texts)
        to.print(beside)
    for finding in report.findings:
        found = finding.difference.text(scale, digits)
        say(
            f"{finding.verdict}: {finding.claim.says} "
            f"({finding.claim.arm} - {finding.claim.than} = {found})",
            to,
        )
    say(f"setting: {study.setting}", to)
    if study.last > 1:
        say(f"a run's result is the mean of its last {study.last} evaluations", to)
    say("+/- is the half width of a 95 % interval over seeds; differences are paired by seed.", to)
    say(f"figure and numbers in {folder}", to)


def _columns(grid: Table, *headers: str, wrapped: bool = False) -> None:
    """The first at the left, and the others at the right."""
    for number, header in enumerate(headers):
        justify: JustifyMethod = "right" if number else "left"
        grid.add_column(header, justify=justify, no_wrap=not wrapped)


def show_comparison(to: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """One row a set of knobs."""
    target = rows[0]["target"]
    grid = Table(box=box.SIMPLE_HEAD)
    _columns(
        grid,
        "run",
        "seeds",
        "accuracy %",
        "worst tenth %",
        f"rounds to {percent(target)}",
        "traffic",
        "seconds",
        "epsilon",
        "vs first",
    )
    for row in rows:
        rounds, reached = row["rounds_to_target"], row["reached"]
        short = "" if reached == len(row["seeds"]) else f" ({reached} of {len(row['seeds'])})"
        grid.add_row(
            row["run"],
            str(len(row["seeds"])),
            row["accuracy"].text(100),
            "-" if row["worst_tenth"] is None else row["worst_tenth"].text(100),
            "never" if rounds is None else rounds.text(digits=0) + short,
            in_bytes(row["bytes"].mean),
            row["seconds"].text(digits=1),
            epsilon_text(row["epsilon"]) or "none",
            "" if row["difference"] is None else row["difference"].text(100),
        )
    to.print(grid)
    if any(len(row["seeds"]) > 1 for row in rows):
        say(
            "+/- is the half width of a 95 % interval over seeds; differences are paired by seed.",
            to,
        )


def show_audit(to: Console, folder: str, lines: Sequence[tuple[str, str]]) -> None:
    """What an audit found: (what, text)."""
    grid = two_columns(f"audit of {folder}")
    for what, text in lines:
        style = "bold" if what == "verdict" else ""
        grid.add_row(what, f"[{style}]{escape(text)}[/{style}]" if style else escape(text))
    to.print(grid)
