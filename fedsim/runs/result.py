"""The result of a run, read from its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fedsim.core.errors import InputError, refusal
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.runs.folder import read_description, read_metrics, read_model

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Result:
    """A run and its folder.

    folder: the run folder. task: the scenario's, from which `model` makes the module; None where
    only the folder is known.

    Guarantees:
        Everything but the task is read from the folder; nothing in it is executed.
    """

    folder: Path
    task: Task | None = field(default=None, repr=False)

    @property
    def metrics(self) -> pd.DataFrame:
        """One row a round, the columns of metrics.jsonl.

        What metrics.jsonl says of accuracy over clients is in columns `clients_mean`,
        `clients_std`, `clients_worst_tenth`; rounds that were not evaluated have NaN there.
        `rejected` is a dict, client -> reason. Without a finished round it is empty.
        """
        import pandas as pd

        rows = list(_flat(read_metrics(self.folder)))
        return pd.DataFrame(rows, columns=None if rows else ["round"]).set_index("round")

    @property
    def clients(self) -> pd.DataFrame:
        """One row a client: its examples, and the final model's accuracy for it (NaN: unknown).

        Raises:
            InputError: the run has not ended.
        """
        import pandas as pd

        return pd.read_csv(self._written_at_the_end("clients.csv"), index_col="client")

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json.

        Raises:
            InputError: the run has not ended.
        """
        path = self._written_at_the_end("summary.json")
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary

    def _written_at_the_end(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise InputError(
                f"load: the run must have ended; got {str(self.folder)!r}, which has no {name}. "
                "Go on with it: fedsim.resume(folder)."
            )
        return path

    @property
    def description(self) -> dict[str, Any]:
        """The content of run.json: scenario, knobs, seed, versions, fingerprint of the data."""
        return read_description(self.folder)

    def params(self) -> Tree:
        """The final parameters, by name: what the clients learned, without frozen weights.

        Raises:
            InputError: the run has not ended.
        """
        return read_model(self.folder)

    def model(self, data_dir: Path | str | None = None) -> nn.Module:
        """The module that the task was made from, with the final parameters, in evaluation mode.

        Args:
            data_dir: folder of data files, as published, for a task of a loaded run whose frozen
                weights come from them; by default $FEDSIM_DATA.

        Raises:
            InputError: the task is not known or was not made from a module, or the run has not
                ended.
        """
        task = self.task
        if task is not None and task.prepare is not None:  # frozen weights are read when asked for
            given = data_dir or os.environ.get("FEDSIM_DATA")
            task = task.prepare(Path(given) if given else None)
        if task is None or task.module is None:
            known = "no task is known" if task is None else f"{task.name} has no module"
            raise InputError(
                f"model: the task must be one that is made from an nn.Module; got {known}. Load "
                "the run with its scenario, fedsim.load(folder, scenario), or use params()."
            )
        return task.module(self.params())


def folder_of(run: Any) -> Path:
    """The folder of a run, given as a result, a `Path` or a string.

    Raises:
        InputError: it is none of them.
    """
    if isinstance(run, Result):
        return run.folder
    if not isinstance(run, str | Path):
        raise refusal("run", "folder", "a Result or a path", run, "Give what fedsim.run returned.")
    return Path(run)


def folders_of(runs: Any) -> list[Path]:
    """The folders of some runs, or of one.

    Raises:
        InputError: one of them is neither a result nor a path.
    """
    several = isinstance(runs, Iterable) and not isinstance(runs, str)
    return [folder_of(one) for one in (runs if several else [runs])]


def _flat(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of metrics.jsonl, with the spread over clients as columns."""
    for row in rows:
        spread = row.get("clients", {})
        plain = {name: value for name, value in row.items() if name != "clients"}
        names = ("mean", "std", "worst_tenth")
        yield plain | {f"clients_{name}": spread[name] for name in names if name in spread}
