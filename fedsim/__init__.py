"""fedsim: a simulator for federated and private learning, built on Flower.

    import fedsim

    result = fedsim.run("digits_quickstart", rounds=10, seed=1)
    result.metrics["test_accuracy"].plot()      # a pandas DataFrame, one row a round
    model = result.model()                      # your nn.Module, with the final parameters

What is run is a scenario: a name from `fedsim list`, a path to a script, or a `Scenario` that you
made. Everything here is imported when it is first used; the parts of a scenario (strategies, step
rules, mechanisms, datasets) are in the packages `strategies`, `privacy` and `fedsim.data`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from fedsim.core.dataset import Dataset as Dataset
    from fedsim.core.dataset import Source as Source
    from fedsim.core.scenario import Mechanism as Mechanism
    from fedsim.core.scenario import Scenario as Scenario
    from fedsim.core.scenario import Strategy as Strategy
    from fedsim.core.settings import Settings as Settings
    from fedsim.core.task import Task as Task
    from fedsim.models.tasks import classification as classification
    from fedsim.runs.callbacks import Callback as Callback
    from fedsim.runs.result import Result as Result
    from fedsim.studies.runner import Report
    from fedsim.testing import check_mechanism as check_mechanism
    from fedsim.testing import check_strategy as check_strategy
    from privacy.auditing.run.report import Audited

_RECORDS = {
    "Scenario": "fedsim.core.scenario",
    "Strategy": "fedsim.core.scenario",
    "Mechanism": "fedsim.core.scenario",
    "Settings": "fedsim.core.settings",
    "Task": "fedsim.core.task",
    "classification": "fedsim.models.tasks",
    "Dataset": "fedsim.core.dataset",
    "Source": "fedsim.core.dataset",
    "Callback": "fedsim.runs.callbacks",
    "Result": "fedsim.runs.result",
    "check_strategy": "fedsim.testing",
    "check_mechanism": "fedsim.testing",
}
__all__ = [
    "Callback",
    "Dataset",
    "Mechanism",
    "Result",
    "Scenario",
    "Settings",
    "Source",
    "Strategy",
    "Task",
    "__version__",
    "audit",
    "check_mechanism",
    "check_strategy",
    "classification",
    "compare",
    "load",
    "plan",
    "resume",
    "run",
    "study",
]


def __getattr__(name: str) -> Any:
    """Import a record, or read the version, when it is first used (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("fedsim-lab")
        except PackageNotFoundError:
            return "not installed"  # a checkout that is on the path
    if name not in _RECORDS:
        raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
    value = getattr(import_module(_RECORDS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The front door."""
    return sorted(__all__)


def run(
    scenario: Scenario | str | Path,
    *,
    seed: int = 1,
    out: Path | str | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    **knobs: Any,
) -> Result:
    """Run a scenario, and give its result.

    Args:
        scenario: a name from `fedsim list`, a path to a script, or a `Scenario`.
        seed: same seed, same numbers.
        out: the run folder, which must be new; by default runs/<scenario>-<time>.
        callbacks: what is called after each round, and may stop the run.
        progress: whether to show a bar in a terminal, and a line that moves in a notebook.
        knobs: of the script (`fedsim run NAME --help`), or fields of the `Scenario`; and of
            `Settings`: data_dir, device, width, workers, precision.

    Raises:
        InputError: something cannot be run as asked; the message says what to write instead.
        PrivacyError: the privacy budget allows no round, or parts do not go together.

    Example:
        >>> import fedsim
        >>> result = fedsim.run("digits_quickstart", rounds=2, width=8, progress=False)
        >>> len(result.metrics)
        2
    """
    from fedsim.cli.notebook import show_progress
    from fedsim.runs.callbacks import check_callbacks
    from fedsim.runs.knobs import read_path
    from fedsim.runs.request import read_request
    from fedsim.runs.runner import run_request

    asked, watching = read_request(scenario, seed, knobs), check_callbacks(callbacks)
    with show_progress(asked.name, progress) as shown:
        return run_request(asked, out=read_path("out", out), callbacks=(*shown, *watching))


def resume(
    folder: Result | Path | str,
    scenario: Scenario | str | Path | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    data_dir: Path | str | None = None,
) -> Result:
    """Go on with a run that was stopped, from its last checkpoint; give its result.

    Args:
        folder: a result, or a run folder.
        scenario: what was run; left out, the scenario of that name with the run's own knobs.
        callbacks: what is called after each round, and may stop the run.
        progress: whether progress is shown.
        data_dir: folder of data files, as published; by default $FEDSIM_DATA.

    Raises:
        InputError: there is no run in the folder, it is another run, or its scenario is not known.

    Example:
        >>> import fedsim
        >>> short = fedsim.Callback(round_done=lambda row: row["round"] == 1)
        >>> stopped = fedsim.run("digits_quickstart", rounds=2, callbacks=[short], progress=False)
        >>> len(stopped.metrics), len(fedsim.resume(stopped.folder, progress=False).metrics)
        (1, 2)
    """
    from fedsim.cli.notebook import show_progress
    from fedsim.runs.callbacks import check_callbacks
    from fedsim.runs.request import read_request_again
    from fedsim.runs.result import folder_of
    from fedsim.runs.runner import run_request

    out, watching = folder_of(folder), check_callbacks(callbacks)
    asked = read_request_again(out, scenario, data_dir)
    with show_progress(asked.name, progress) as shown:
        return run_request(asked, out=out, resume=True, callbacks=(*shown, *watching))


def load(folder: Result | Path | str, scenario: Scenario | str | Path | None = None) -> Result:
    """The result of a run, from its folder. Nothing in the folder is executed.

    Args:
        folder: a result, or a run folder.
        scenario: what was run, for `Result.model`; left out, the scenario of that name in
            `fedsim list`, where there is one.

    Raises:
        InputError: there is no run in the folder.

    Example:
        >>> import fedsim
        >>> ran = fedsim.run("digits_quickstart", rounds=1, progress=False)
        >>> fedsim.load(ran.folder).summary["rounds"]
        1
    """
    from fedsim.runs.request import load_result
    from fedsim.runs.result import folder_of

    return load_result(folder_of(folder), scenario)


def plan(scenario: Scenario | str | Path, *, seed: int = 1, **knobs: Any) -> dict[str, Any]:
    """What a run would be and cost: sizes, traffic, memory, time, epsilon. Trains nothing.

    Args:
        scenario: a name from `fedsim list`, a path to a script, or a `Scenario`.
        seed: of the data's split and of the cohorts.
        knobs: as for `run`.

    Raises:
        InputError: something cannot be run as asked.
        PrivacyError: the budget allows no round.

    Example:
        >>> import fedsim
        >>> fedsim.plan("digits_quickstart", cohort=24, width=8, workers=1)["sampling_prob"]
        0.1
    """
    from fedsim.runs.forecast import plan_request
    from fedsim.runs.request import read_request

    return plan_request(read_request(scenario, seed, knobs))


def compare(runs: Sequence[Result | Path | str], target: float | None = None) -> pd.DataFrame:
    """One row for each set of knobs, over its seeds: means, and half widths of 95 % intervals.

    Args:
        runs: results, or run folders.
        target: accuracy to reach (0 to 1), for rounds to target; by default the lowest final one.

    Raises:
        InputError: a folder is no run, or the runs cannot be compared.

    Example:
        >>> import fedsim
        >>> both = [
        ...     fedsim.run("digits_quickstart", rounds=1, lr=r, progress=False) for r in (0.1, 0.2)
        ... ]
        >>> list(fedsim.compare(both).index)
        ['lr=0.1', 'lr=0.2']
    """
    from fedsim.runs.compare import data_frame
    from fedsim.runs.result import folders_of

    return data_frame(folders_of(runs), target)


def audit(run: Result | Path | str, delta: float | None = None) -> Audited:
    """Recompute a run's privacy budget from its ledger, and hold it against what was observed.

    Args:
        run: a result, or a run folder.
        delta: where epsilon is given; by default the run's own.

    Raises:
        InputError: the folder is no run, or its files do not belong together.

    Example:
        >>> import fedsim
        >>> ran = fedsim.run("digits_quickstart", rounds=1, progress=False)
        >>> fedsim.audit(ran).exit_code  # without privacy there is no claim to contradict
        0
    """
    from fedsim.runs.result import folder_of
    from privacy.auditing.run.report import audit as audit_run

    return audit_run(folder_of(run), delta)


def study(
    name: Path | str, *, seed: int = 1, out: Path | str | None = None, **knobs: Any
) -> Report:
    """Run every arm of a study with every seed: table, verdicts and figure, in a folder.

    Finished runs are not run again, so a study that was stopped goes on with the same `out`.

    Args:
        name: a study of `fedsim list`, or a path to a script with a function `study`.
        seed: the first seed.
        out: the study's folder; by default runs/<name>-<time>.
        knobs: of the script (`fedsim run NAME --help`); rounds, cohort and canaries for every arm;
            and of `Settings`, where workers is how many runs go on at once.

    Raises:
        InputError: there is no such study, or it cannot be run as asked.

    Example:
        >>> import fedsim
        >>> report = fedsim.study(
        ...     "dp_correlated", population=60, cohort=30, rounds=4, seeds=1, workers=1
        ... )  # doctest: +SKIP
    """
    from fedsim.runs.knobs import read_path
    from fedsim.studies.runner import run_study

    return run_study(str(name), seed=seed, knobs=knobs, out=read_path("out", out))
