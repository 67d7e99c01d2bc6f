"""Running a study: every arm with every seed, as many runs at once as there are cores.

A run of a study is a run like any other, in a folder of its own, `<out>/<arm>/seed-<n>`. What is
there and finished is not run again, so a study that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fedsim.core.jsonl import to_json
from fedsim.core.machine import count_cores
from fedsim.core.scenario import Scenario
from fedsim.core.settings import Settings
from fedsim.runs.catalogue import find_script
from fedsim.runs.compare import Run, read_run, spent
from fedsim.runs.folder import read_metrics
from fedsim.studies.columns import Answer, read_columns
from fedsim.studies.plots import draw_arms, draw_budgets
from fedsim.studies.study import (
    Answers,
    Finding,
    Results,
    Row,
    Study,
    findings,
    markdown,
    result,
    table,
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """A study as another process can build it: its script and knobs, and the common options."""

    script: str
    knobs: Mapping[str, Any]
    settings: Settings
    rounds: int | None
    cohort: int | None
    out: Path
    canaries: int | None = None

    def study(self) -> Study:
        """The study, with the common options in every arm; canaries only under privacy."""
        made: Study = find_script(self.script).build(**self.knobs)
        return replace(
            made,
            arms=tuple(replace(arm, scenario=self._applied(arm.scenario)) for arm in made.arms),
        )

    def _applied(self, scenario: Scenario) -> Scenario:
        private = scenario.mechanism.canaries != "none"
        asked = {
            "rounds": self.rounds,
            "cohort": self.cohort,
            "canaries": self.canaries if private else None,
        }
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        return replace(scenario, **given)

    def folder(self, arm: str, seed: int) -> Path:
        """Where a run goes."""
        words = "".join(c if c.isalnum() else " " for c in arm.lower()).split()
        return self.out / "-".join(words) / f"seed-{seed}"

    def seeds(self, study: Study) -> range:
        """The study's seeds."""
        return range(self.settings.seed, self.settings.seed + study.seeds)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of a study."""

    study: Study
    rows: list[Row]
    findings: list[Finding]


def conduct(order: Order, study: Study, run_done: Callable[[str, int, float], None]) -> Report:
    """Run what is not yet there, seed by seed; write study.json, study.md and study.png.

    Args:
        order: how to build the study elsewhere.
        study: the same, built here.
        run_done: called as (arm, seed, result) at the end of each run.
    """
    results: dict[str, dict[int, float]] = {arm.name: {} for arm in study.arms}
    answers: dict[str, dict[int, dict[str, Answer]]] = {arm.name: {} for arm in study.arms}
    for number, seed in _runs(order, study):
        arm = study.arms[number].name
        folder = order.folder(arm, seed)
        results[arm][seed] = result(study, read_metrics(folder))
        answers[arm][seed] = read_columns(study.reads, folder)
        run_done(arm, seed, results[arm][seed])
    groups = {
        arm.name: [read_run(order.folder(arm.name, seed)) for seed in order.seeds(study)]
        for arm in study.arms
    }
    epsilons = {name: spent(runs) for name, runs in groups.items()}
    rows = table(study, results, epsilons, answers)
    report = Report(study=study, rows=rows, findings=findings(study, results))
    _write(order, report, results, answers, groups)
    return report


def _runs(order: Order, study: Study) -> Iterator[tuple[int, int]]:
    """(arm's number, seed) of every run, as it ends."""
    everything = [(a, seed) for seed in order.seeds(study) for a in range(len(study.arms))]
    done = [
        (a, seed)
        for a, seed in everything
        if (order.folder(study.arms[a].name, seed) / "summary.json").exists()
    ]
    yield from done
    left = [one for one in everything if one not in done]
    at_once = min(order.settings.workers or count_cores(), len(left))
    if at_once <= 1:
        for a, seed in left:
            run_one(order, a, seed)
            yield a, seed
        return
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as pool:
        pending: dict[Future[None], tuple[int, int]] = {
            pool.submit(run_one, order, a, seed): (a, seed) for a, seed in left
        }
        try:
            while pending:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    future.result()
                    yield pending.pop(future)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_one(order: Order, arm: int, seed: int) -> None:
    """One run, in this process and into its folder; goes on where it was stopped."""
    from fedsim.flower.in_process import run_in_process
    from fedsim.runs.runner import describe, resumed
    from fedsim.server.setup import prepare
    from fedsim.training.executors.open import open_executor

    study = order.study()
    scenario: Scenario = study.arms[arm].scenario
    out = order.folder(study.arms[arm].name, seed)
    resume = (out / "run.json").exists()
    settings = replace(order.settings, seed=seed, workers=1)
    if resume:
        settings = resumed(out, settings)
    prepared = prepare(scenario, settings)
    knobs = {**order.knobs, "arm": study.arms[arm].name}
    description = describe(order.script, knobs, prepared, "cohort")
    with open_executor(prepared.trainer, prepared.workers, prepared.templates) as executor:
        run_in_process(prepared, description, _Silent(), executor, out=out, resume=resume)


class _Silent:
    """An observer that says nothing: the study reports whole runs."""

    def started(self, rounds: int, done: int, folder: Any) -> None:
        """Nothing."""

    def round_done(self, metrics: Any) -> None:
        """Nothing."""


def _write(
    order: Order, report: Report, results: Results, answers: Answers, groups: dict[str, list[Run]]
) -> None:
    study = report.study
    content = {
        "paper": study.paper,
        "setting": study.setting,
        "metric": study.metric,
        "results": results,
        **({} if study.reads is None else {"read": answers}),
        "table": [asdict(row) for row in report.rows],
        "claims": [asdict(finding) for finding in report.findings],
    }
    (order.out / "study.json").write_text(to_json(content, indent=2), encoding="utf-8")
    page = markdown(study, report.rows, report.findings)
    (order.out / "study.md").write_text(page, encoding="utf-8")
    draw_arms(order.out / "study.png", groups, study.metric, study.last)
    if any(row.epsilon is not None for row in report.rows):
        draw_budgets(order.out / "utility.png", groups, study.metric, study.last)
    if study.draws is not None:
        study.draws(order.out, answers)
