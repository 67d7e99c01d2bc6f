"""Compare run folders: one row and one curve for each set of knobs, over its seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.core.errors import InputError
from fedsim.runs.folder import Metrics, read_description, read_metrics
from fedsim.runs.plots import PALETTE, figure
from fedsim.runs.statistics import Interval, interval, paired_difference

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder, read."""

    path: Path
    scenario: str
    strategy: str
    knobs: dict[str, Any]
    seed: int
    metrics: list[Metrics]

    def tested(self) -> list[Metrics]:
        """The rounds that were evaluated."""
        return [row for row in self.metrics if "test_accuracy" in row]


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: it is no run, or no round of it was evaluated.
    """
    description = read_description(path)
    metrics = read_metrics(path)
    if not any("test_loss" in row for row in metrics):
        raise InputError(
            f"compare: the run must have an evaluated round; got {str(path)!r} without. "
            "Let it go on with --resume."
        )
    return Run(
        path=path,
        scenario=description["scenario"],
        strategy=description["algorithm"]["strategy"],
        knobs=description["knobs"],
        seed=description["settings"]["seed"],
        metrics=metrics,
    )


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ by seed only, under a label made of the knobs that differ between groups.

    Raises:
        InputError: a run was given twice, or has a loss alone.
    """
    for run in runs:
        if not run.tested():
            raise InputError(
                f"compare: runs must have a test accuracy; got {run.path}, whose task has a loss "
                "alone. Compare such runs by a study, whose metric may be test_loss."
            )
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([run.scenario, run.knobs], sort_keys=True)
        groups.setdefault(key, []).append(run)
    for members in groups.values():
        seeds = [run.seed for run in members]
        if len(set(seeds)) < len(seeds):
            raise InputError(
                f"compare: runs must differ in a knob or in their seed; got {members[0].path} and "
                f"{members[-1].path}. Leave one out."
            )
        members.sort(key=lambda run: run.seed)
    firsts = [members[0] for members in groups.values()]
    names = sorted({name for run in firsts for name in run.knobs})
    differing = [n for n in names if len({json.dumps(run.knobs.get(n)) for run in firsts}) > 1]
    several = len({run.scenario for run in firsts}) > 1
    labelled: dict[str, list[Run]] = {}
    for members in groups.values():
        first = members[0]
        parts = [first.scenario] if several or not differing else []
        parts += [f"{name}={first.knobs[name]}" for name in differing if name in first.knobs]
        labelled[" ".join(parts)] = members
    return labelled


def check_target(target: Any) -> None:
    """Refuse a target that is no accuracy.

    Raises:
        InputError: it is not in (0, 1].
    """
    if not isinstance(target, int | float) or not 0 < target <= 1:
        raise InputError(f"compare: target must be in (0, 1]; got {target!r}. Use 0.8 for 80 %.")


def table(groups: dict[str, list[Run]], target: float | None) -> list[dict[str, Any]]:
    """One row a group. Without a target, it is the lowest final accuracy: all groups reach it.

    `difference` is the mean paired difference of final accuracy to the first group, over the seeds
    that both have.
    """
    if target is None:
        target = min(run.tested()[-1]["test_accuracy"] for runs in groups.values() for run in runs)
    first = next(iter(groups.values()))
    rows = []
    for label, runs in groups.items():
        reached = [_first_round(run, target) for run in runs]
        when = [value for value in reached if value is not None]
        paired = None if runs is first else paired_difference(_ends(runs), _ends(first))
        worst = [run.tested()[-1]["clients"].get("worst_tenth") for run in runs]
        rows.append(
            {
                "run": label,
                "seeds": [run.seed for run in runs],
                "accuracy": interval([run.tested()[-1]["test_accuracy"] for run in runs]),
                "loss": interval([run.tested()[-1]["test_loss"] for run in runs]),
                "worst_tenth": None if None in worst else interval([float(w) for w in worst]),
                "target": target,
                "reached": len(when),
                "rounds_to_target": interval(when) if when else None,
                "bytes": interval(
                    [sum(r["bytes_up"] + r["bytes_down"] for r in run.metrics) for run in runs]
                ),
                "seconds": interval([sum(r["seconds"] for r in run.metrics) for run in runs]),
                "epsilon": spent(runs),
                "difference": paired,
            }
        )
    return rows


def _ends(runs: Sequence[Run]) -> dict[int, float]:
    """The final accuracy of runs, by seed."""
    return {run.seed: run.tested()[-1]["test_accuracy"] for run in runs}


def _first_round(run: Run, target: float) -> int | None:
    return next((r["round"] for r in run.tested() if r["test_accuracy"] >= target), None)


def spent(runs: Sequence[Run]) -> float | None:
    """The largest epsilon of some runs; inf without a guarantee, None without privacy."""
    last = [run.metrics[-1]["epsilon"] for run in runs if "epsilon" in run.metrics[-1]]
    if len(last) < len(runs):
        return None
    return max(math.inf if value is None else float(value) for value in last)


def draw(path: Path, groups: dict[str, list[Run]], rows: list[dict[str, Any]]) -> None:
    """Accuracy over rounds for each group (band: 95 % interval over seeds), and how it ends."""
    with figure(path, 10, 4, columns=2) as (left, right):
        for number, (label, runs) in enumerate(groups.items()):
            colour = PALETTE[number % len(PALETTE)]
            rounds, curves = aligned(runs, "test_accuracy")
            middle = 100 * curves.mean(axis=0)
            name = f"{label} ({len(runs)} seed{'s' * (len(runs) > 1)})"
            left.plot(rounds, middle, color=colour, label=name)
            if len(runs) > 1:
                halves = [100 * (interval(column.tolist()).half or 0) for column in curves.T]
                left.fill_between(
                    rounds, middle - halves, middle + halves, color=colour, alpha=0.15, lw=0
                )
        left.set(xlabel="round", ylabel="test accuracy (%)", title="Accuracy", ylim=(0, 100))
        left.legend(fontsize=8)
        places = np.arange(len(rows))
        for offset, key, label, colour in (
            (-0.2, "accuracy", "all clients", PALETTE[0]),
            (0.2, "worst_tenth", "worst tenth of clients", PALETTE[1]),
        ):
            shown = [(place, row[key]) for place, row in zip(places, rows, strict=True) if row[key]]
            right.barh(
                [place + offset for place, _ in shown],
                [100 * value.mean for _, value in shown],
                xerr=[100 * (value.half or 0) for _, value in shown],
                height=0.38,
                color=colour,
                label=label,
                capsize=2,
            )
        right.set_yticks(places, [row["run"] for row in rows], fontsize=8)
        right.invert_yaxis()
        right.set(xlabel="final accuracy (%)", title="How it ends", xlim=(0, 100))
        right.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.32), ncols=2)


def aligned(runs: Sequence[Run], metric: str) -> tuple[list[int], NDArray[np.float64]]:
    """The evaluated rounds that all runs share, and their values [runs, rounds]."""
    by_round = [{r["round"]: r[metric] for r in run.metrics if metric in r} for run in runs]
    rounds = sorted(set.intersection(*(set(values) for values in by_round)))
    return rounds, np.array([[values[r] for r in rounds] for values in by_round])


def data_frame(folders: Sequence[Path], target: float | None) -> pd.DataFrame:
    """The table of some run folders: each mean in a column of its name, its half width beside."""
    import pandas as pd

    if not folders:
        raise InputError("compare: runs must be one run or more; got none. Give run folders.")
    if target is not None:
        check_target(target)
    rows = []
    for row in table(group_runs([read_run(folder) for folder in folders]), target):
        flat: dict[str, Any] = {}
        for name, value in row.items():
            if isinstance(value, Interval):
                flat |= {name: value.mean, f"{name}_half": value.half}
            else:
                flat[name] = value
        rows.append(flat)
    return pd.DataFrame(rows).set_index("run")
