"""What people see: progress and notes on stderr, and what they asked for on stdout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import progress
from rich.console import Console
from rich.table import Table

from fedsim.runs.callbacks import Callback
from fedsim.runs.folder import Metrics
from fedsim.runs.statistics import epsilon_text


def _console(*, stderr: bool, width: int) -> Console:
    """A console on one of the streams, of that width where it is no terminal."""
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=width)


terminal = _console(stderr=True, width=120)


def human(as_json: bool) -> Console:
    """Where tables go: to stdout, or to stderr where stdout holds a JSON document."""
    # A pipe has no edge to fold at: one row, one line.
    return terminal if as_json else _console(stderr=False, width=1000)


def say(text: str, to: Console = terminal) -> None:
    """One line for people, on stderr or `to` another console."""
    to.print(text, soft_wrap=True)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner while something without a known length goes on."""
    if not terminal.is_terminal:
        yield
        return
    with terminal.status(f"{what} ..."):
        yield


class Progress:
    """Watches a run: a bar on a terminal, a line for each evaluated round elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen = ""
        self._bar = progress.Progress(
            progress.TextColumn("[bold]{task.description}"),
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[seen]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=terminal,
            disable=not terminal.is_terminal,
        )
        self._task = self._bar.add_task(name, total=None, seen="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    @property
    def callback(self) -> Callback:
        """What the run calls."""
        return Callback(run_started=self._started, round_done=self._round_done)

    def _started(self, rounds: int, done: int, folder: Path) -> None:
        """Say where results go, and from which round the run goes on."""
        if done:
            say(f"{self._name}: resumed after round {done} of {rounds}, in {folder}")
        else:
            say(f"{self._name}: {rounds} rounds, results in {folder}")
        self._bar.update(self._task, total=rounds, completed=done)

    def _round_done(self, metrics: Metrics) -> None:
        """Move the bar, or print a line."""
        self._seen = _evaluated(metrics) or self._seen
        seen = describe_round(metrics, self._seen)
        self._bar.update(self._task, completed=metrics["round"], seen=seen)
        if metrics["rejected"]:
            names = ", ".join(f"{c} ({why})" for c, why in list(metrics["rejected"].items())[:3])
            say(f"round {metrics['round']}: left out {len(metrics['rejected'])} clients: {names}")
        if not terminal.is_terminal and "test_loss" in metrics:
            say(f"round {metrics['round']}: {seen}")


def describe_round(metrics: Metrics, evaluated: str = "") -> str:
    """A round in a few words. evaluated: what the last evaluation said, if this had none."""
    text = _evaluated(metrics) or evaluated
    loss = metrics["train_loss"]
    text += "" if loss is None else f"  train loss {loss:.3f}"
    return text + (f"  epsilon {_epsilon(metrics['epsilon'])}" if "epsilon" in metrics else "")


def _evaluated(metrics: Metrics) -> str:
    """What an evaluated round's evaluation said."""
    if "test_accuracy" in metrics:
        return f"accuracy {100 * metrics['test_accuracy']:.1f} %"
    return f"test loss {metrics['test_loss']:.4g}" if "test_loss" in metrics else ""


class StudyProgress:
    """Watches a study: a bar over its runs on a terminal, and a line for each that ended."""

    def __init__(self, name: str, runs: int, folder: str) -> None:
        say(f"{name}: {runs} runs, results in {folder}")
        self._bar = progress.Progress(
            progress.TextColumn("[bold]{task.description}"),
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=terminal,
            disable=not terminal.is_terminal,
        )
        self._task = self._bar.add_task(name, total=runs)

    def __enter__(self) -> StudyProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def run_done(self, arm: str, seed: int, result: float) -> None:
        """Move the bar, and print a line."""
        self._bar.advance(self._task)
        say(f"{arm}, seed {seed}: {result:.4f}")


def show_summary(to: Console, summary: Mapping[str, Any]) -> None:
    """The end of a run."""
    personal = summary["personal_accuracy"]
    grid = two_columns(f"{summary['scenario']}, {summary['strategy']}, seed {summary['seed']}")
    best = summary["best"]
    if summary["test_accuracy"] is None:
        grid.add_row(
            "test loss",
            f"{summary['test_loss']:.6g}   (best {best['test_loss']:.6g} in round {best['round']})",
        )
    else:
        grid.add_row(
            "test accuracy",
            f"{percent(summary['test_accuracy'])}   (best "
            f"{percent(best['test_accuracy'])} in round {best['round']})",
        )
        grid.add_row("test loss", f"{summary['test_loss']:.4f}")
    if "mean" in personal:
        grid.add_row(
            "over clients",
            f"mean {percent(personal['mean'])}, std "
            f"{percent(personal['std'])}, worst tenth {percent(personal['worst_tenth'])}"
            f"\n({personal['of']})",
        )
    grid.add_row(
        "traffic", f"{in_bytes(summary['bytes_down'])} down, {in_bytes(summary['bytes_up'])} up"
    )
    grid.add_row("time", f"{summary['seconds']:.1f} s for {summary['rounds']} rounds")
    grid.add_row("memory", f"{in_bytes(summary['memory_bytes'])} at most")
    if summary["rejected"]:
        total = sum(summary["rejected"].values())
        worst = ", ".join(sorted(summary["rejected"], key=int)[:8])
        grid.add_row("left out", f"{total} replies of clients {worst}")
    _add_privacy(grid, summary["privacy"])
    if summary["stopped"]:
        grid.add_row("stopped", summary["stopped"])
    grid.add_row("results", f"{summary['folder']} (look at plots/)")
    to.print(grid)


def _add_privacy(grid: Table, privacy: Mapping[str, Any]) -> None:
    """What is protected from whom, and what was spent."""
    grid.add_row("privacy", privacy["statement"])
    if "epsilon" in privacy:
        grid.add_row(
            "budget",
            f"epsilon {_epsilon(privacy['epsilon'])} at delta "
            f"{privacy['delta']:g}, {privacy['relation']}, of the ledger",
        )
        for warning in privacy["warnings"]:
            grid.add_row("[bold]warning[/bold]", warning)
        whom = f"each {privacy['unit']} from {privacy['protects_from']}"
        grid.add_row("protects", f"{whom}; noise by {privacy['noise_by']}")


def show_plan(to: Console, name: str, expected: Mapping[str, Any]) -> None:
    """What a run would be."""
    grid = two_columns(f"plan of {name}")
    low, high = expected["examples_of_a_client"]
    steps = expected["steps_of_a_client"]
    grid.add_row(
        "population",
        f"{expected['population']} clients with {low} to {high} examples, "
        f"{expected['empty_clients']} empty",
    )
    grid.add_row(
        "cohort",
        f"{expected['cohort']} a round, {expected['sampling']}; each takes part "
        f"with probability {expected['sampling_prob']:.4g}",
    )
    grid.add_row(
        "rounds",
        f"{expected['rounds']}, of {steps['mean']:.1f} local steps a client on "
        f"average, {steps['max']} at most",
    )
    grid.add_row("model", f"{expected['task']}, {expected['parameters']:,} parameters")
    parts = (expected[part] for part in ("strategy", "plan", "aggregator"))
    grid.add_row("algorithm", ", ".join(parts))
    if expected["attack"] is not None:
        grid.add_row("attack", f"{expected['attack']} by {expected['attackers']} clients")
    down, up = in_bytes(expected["bytes_down"]), in_bytes(expected["bytes_up"])
    grid.add_row("traffic", f"{down} down, {up} up")
    grid.add_row("memory", f"about {in_bytes(expected['memory_bytes'])}")
    width, workers = expected["width"], expected["workers"]
    who = f"{workers} worker{'s' * (workers > 1)} of {width} client{'s' * (width > 1)} at once"
    grid.add_row("time", f"about {_duration(expected['seconds'])} on this machine, with {who}")
    grid.add_row("privacy", expected["statement"])
    if "delta" in expected:
        _add_forecast_budget(grid, expected)
    to.print(grid)


def _add_forecast_budget(grid: Table, expected: Mapping[str, Any]) -> None:
    """What a run would spend, by the ledger's accountant and by others."""
    spent = ", ".join(f"{r}: {_epsilon(e)}" for r, e in expected["epsilon_after"].items())
    grid.add_row(
        "budget",
        f"epsilon {_epsilon(expected['epsilon'])} at delta "
        f"{expected['delta']:g}; after round {spent}",
    )
    others = [f"{n} {_epsilon(e)}" for n, e in expected["accountants"].items() if e is not None]
    grid.add_row("accountants", "by other accountants: " + ", ".join(others))
    for warning in expected["warnings"]:
        grid.add_row("[bold]warning[/bold]", warning)
    if expected["last_round"] < expected["rounds"]:
        last = f"[bold]stops after round {expected['last_round']}[/bold]"
        grid.add_row("", f"{last}, before the budget is exceeded")


def _epsilon(value: float | None) -> str:
    return epsilon_text(math.inf if value is None else value)


def two_columns(title: str) -> Table:
    """A table of names and texts."""
    grid = Table(box=None, title=title, title_justify="left", title_style="bold", show_header=False)
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column()
    return grid


def percent(value: float) -> str:
    """A share as people read it."""
    return f"{100 * value:.1f} %"


def in_bytes(value: float) -> str:
    """A size as people read it."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
