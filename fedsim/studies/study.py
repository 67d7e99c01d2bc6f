"""Studies: several algorithms on the same worlds and seeds, and what a paper claims of them.

A script with a function `study(...) -> Study` is run by `fedsim run` like a scenario. Each arm is
run with each seed; the arms of a seed share data split, cohorts and initial model, so differences
are paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from fedsim.core.errors import InputError, at_least
from fedsim.core.scenario import Scenario
from fedsim.runs.folder import Metrics
from fedsim.runs.statistics import Interval, epsilon_text, interval, paired_difference
from fedsim.studies.columns import Answer, Cell, Reads, summarise_columns

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
Results = Mapping[str, Mapping[int, float]]
"""arm -> seed -> how its run ended, in the study's metric."""
Answers = Mapping[str, Mapping[int, Mapping[str, Answer]]]
"""arm -> seed -> what was read from its run."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One algorithm of a study. published: the paper's number, in the metric's own unit."""

    name: str
    scenario: Scenario
    published: float | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That one arm ends better than another, or the same to within `within` (metric's unit)."""

    says: str
    arm: str
    than: str
    kind: Literal["better", "same"] = "better"
    within: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared, and what is claimed.

    paper: where the claims are from.
    setting: the world, and how it differs from that of the published numbers.
    arms: the first is what the others are compared with.
    seeds: how many, from the run's seed on.
    last: how many evaluations at the end are averaged into a run's result; one alone is noisy.
    reads: what else a finished run's folder says, as columns of the table: its folder -> name -> a
        number or a word.
    draws: pictures of what was read, into the study's folder: arm -> seed -> what it says.
    """

    paper: str
    setting: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...] = ()
    seeds: int = 3
    metric: Literal["test_accuracy", "test_loss"] = "test_accuracy"
    last: int = 1
    reads: Reads | None = None
    draws: Callable[[Path, Answers], None] | None = None

    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.metric == "test_accuracy" else -1

    def delta(self) -> float:
        """At which its private arms give epsilon, the largest of them; NaN where none is."""
        accounts = [arm.scenario.mechanism.account() for arm in self.arms]
        return max((a.delta for a in accounts if a is not None), default=math.nan)

    def shown(self) -> tuple[float, int, str]:
        """How people see the metric: times what, with how many digits, in what unit."""
        return (100, 2, "accuracy %") if self.metric == "test_accuracy" else (1, 4, "test loss")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm's line of the table. difference: to the first arm, paired by seed.

    epsilon: the most that a seed has spent; inf without a guarantee, None without privacy.
    read: what its runs said beside, by name.
    """

    arm: str
    seeds: int
    result: Interval
    difference: Interval | None
    published: float | None
    epsilon: float | None = None
    read: Mapping[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of a claim. difference: of its two arms, paired by seed."""

    claim: Claim
    difference: Interval
    verdict: Verdict


def check_study(study: Study) -> None:
    """Refuse a study that cannot be run or whose claims name nothing.

    Raises:
        InputError: there is no arm or seed, two arms share a name, or a claim names no arm.
    """
    at_least("study", 1, "Use 3.", seeds=study.seeds, last=study.last)
    names = [arm.name for arm in study.arms]
    if not names or len(set(names)) < len(names):
        raise InputError(f"study: arms must have names of their own; got {names}. Rename one.")
    for claim in study.claims:
        for name in (claim.arm, claim.than):
            if name not in names:
                raise InputError(
                    f"study: a claim must name an arm; got {name!r}. Known: {', '.join(names)}."
                )


def result(study: Study, metrics: Sequence[Metrics]) -> float:
    """How a run ended: the mean of the metric over its last evaluations."""
    values = [row[study.metric] for row in metrics if study.metric in row]
    return float(np.mean(values[-study.last :]))


def table(
    study: Study,
    results: Results,
    epsilons: Mapping[str, float | None] | None = None,
    answers: Answers | None = None,
) -> list[Row]:
    """One row an arm. epsilons: what each has spent; answers: what was read from its runs."""
    first = study.arms[0].name
    return [
        Row(
            arm=arm.name,
            seeds=len(results[arm.name]),
            result=interval(list(results[arm.name].values())),
            difference=None if arm.name == first else _difference(results, arm.name, first),
            published=arm.published,
            epsilon=(epsilons or {}).get(arm.name),
            read=summarise_columns((answers or {}).get(arm.name, {})),
        )
        for arm in study.arms
    ]


def findings(study: Study, results: Results) -> list[Finding]:
    """A verdict on each claim, by the 95 % interval of the paired differences.

    A claim of better is reproduced where the whole interval is on its side of zero, and not
    reproduced where the whole is on the other. A claim of the same is reproduced where the whole
    interval is within the claim's bounds, and not reproduced where none of it is. The rest is
    inconclusive, as is everything with one seed.

    Guarantees:
        A difference that is not significant is called inconclusive.
    """
    found = []
    for claim in study.claims:
        difference = _difference(results, claim.arm, claim.than)
        found.append(
            Finding(claim=claim, difference=difference, verdict=_verdict(study, claim, difference))
        )
    return found


def markdown(study: Study, rows: Sequence[Row], found: Sequence[Finding]) -> str:
    """The table and the verdicts, as a page has them."""
    scale, digits, unit = study.shown()
    last = columns(study, rows)
    lines = [
        f"{study.setting[:1].upper()}{study.setting[1:]}.",
        "",
        f"| | {unit} | minus {study.arms[0].name}, paired | {' | '.join(last)} |",
        "| --- | --- | --- |" + " --- |" * len(last),
    ]
    for row in rows:
        difference = "" if row.difference is None else row.difference.text(scale, digits)
        ends = " | ".join(cells(study, rows, row))
        lines.append(f"| {row.arm} | {row.result.text(scale, digits)} | {difference} | {ends} |")
    lines.append("")
    lines += [
        f"* **{one.verdict}**: {one.claim.says} (by {one.difference.text(scale, digits)})"
        for one in found
    ]
    return "\n".join(lines) + "\n"


def columns(study: Study, rows: Sequence[Row]) -> list[str]:
    """The last headers of a study's table: what is published, was spent and was read."""
    private = any(row.epsilon is not None for row in rows)
    published = any(row.published is not None for row in rows) or not private
    read = dict.fromkeys(name for row in rows for name in row.read)
    return ["published"] * published + [_spent(study)] * private + list(read)


def cells(study: Study, rows: Sequence[Row], row: Row) -> list[str]:
    """What a row has under `columns`."""
    scale, digits, _ = study.shown()
    published = "" if row.published is None else f"{scale * row.published:.{digits}f}"
    known = {"published": published, _spent(study): epsilon_text(row.epsilon)}
    known |= {name: cell.text() for name, cell in row.read.items()}
    return [known.get(header, "") for header in columns(study, rows)]


def _spent(study: Study) -> str:
    return f"epsilon at delta {study.delta():g}"


def _verdict(study: Study, claim: Claim, difference: Interval) -> Verdict:
    if difference.half is None:
        return "inconclusive"
    middle = study.sign() * difference.mean
    low, high = middle - difference.half, middle + difference.half
    if claim.kind == "better":
        if low > 0:
            return "reproduced"
        return "not reproduced" if high < 0 else "inconclusive"
    if -claim.within <= low and high <= claim.within:
        return "reproduced"
    return "not reproduced" if low > claim.within or high < -claim.within else "inconclusive"


def _difference(results: Results, arm: str, than: str) -> Interval:
    found = paired_difference(results[arm], results[than])
    assert found is not None, "each arm is run with each seed"
    return found
