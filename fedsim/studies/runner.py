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

from fedsim.core.errors import InputError, unknown
from fedsim.core.jsonl import to_json
from fedsim.core.machine import count_cores
from fedsim.core.scenario import Scenario
from fedsim.core.settings import Settings
from fedsim.runs.catalogue import find_script
from fedsim.runs.compare import Run, read_run, spent
from fedsim.runs.description import default_folder
from fedsim.runs.folder import read_metrics
from fedsim.runs.knobs import scenario_value, script_value
from fedsim.runs.request import split_settings
from fedsim.server.setup import check_scenario
from fedsim.studies.columns import Answer, read_columns
from fedsim.studies.plots import draw_arms, draw_budgets
from fedsim.studies.study import (
    Answers,
    Finding,
    Results,
    Row,
    Study,
    check_study,
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
    """Run one arm with one seed, in this process; go on where it was stopped."""
    from fedsim.runs.runner import run

    chosen = order.study().arms[arm]
    out = order.folder(chosen.name, seed)
    run(
        order.script,
        chosen.scenario,
        replace(order.settings, seed=seed, workers=1),
        knobs={**order.knobs, "arm": chosen.name},
        out=out,
        resume=(out / "run.json").exists(),
    )


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


_COMMON = ("rounds", "cohort", "canaries")  # of every arm, where the script has no such knob


# --- from Python ---------------------------------------------------------------------------------


def run_study(name: str, *, seed: int, knobs: Mapping[str, Any], out: Path | None) -> Report:
    """Run a study that is asked for by name or path; what is there and finished is kept.

    Args:
        name: of a study, or a path to its script.
        seed: the first.
        knobs: of the script; rounds, cohort and canaries of every arm; and of `Settings`.
        out: the study's folder; by default runs/<name>-<time>.

    Raises:
        InputError: there is no such study or knob, or an arm cannot be run as asked.
    """
    script = find_script(name)
    if script.kind != "study":
        raise InputError(
            f"study: name must be that of a study; got {script.name!r}, a single scenario. "
            f"Use fedsim.run({script.name!r})."
        )
    signature = {knob.name: knob for knob in script.signature.knobs}
    own, given, common = signature.keys(), dict[str, Any](), dict[str, Any]()
    settings, runtime, rest = split_settings(seed, knobs, own)
    if runtime != "cohort":
        raise InputError(
            f"study: runtime must be left out; got {runtime!r}. "
            "Run an arm as a scenario of its own."
        )
    for name, value in rest.items():
        if name in own:
            given[name] = script_value(signature[name], value)
        elif name not in _COMMON:
            raise unknown("study", "knob", name, own | set(_COMMON))
        else:
            common[name] = None if value is None else scenario_value(name, value)
    order = Order(
        script=script.reference,
        knobs={name: knob.default for name, knob in signature.items()} | given,
        settings=settings,
        out=out or default_folder(script.name),
        rounds=common.get("rounds"),
        cohort=common.get("cohort"),
        canaries=common.get("canaries"),
    )
    return conduct(order, checked(order), lambda arm, seed, result: None)


def checked(order: Order) -> Study:
    """The study of an order, of which every arm can be run; its folder is made.

    Raises:
        InputError: the study or one of its arms cannot be run as asked.
    """
    study = order.study()
    check_study(study)
    for arm in study.arms:
        check_scenario(arm.scenario, order.settings)
    order.out.mkdir(parents=True, exist_ok=True)
    return study
