"""The run folder: what a run leaves behind, written so that a kill loses nothing done.

run.json        scenario, knobs, seed, versions, data fingerprint
metrics.jsonl   one object a round
ledger.jsonl    one object a privacy event (empty without privacy)
canaries.json   which canaries the run has, if any; canaries.jsonl their observations, by round
resumed.jsonl   which rounds were charged for and run again, if any
checkpoint/     the newest complete state
model.safetensors   the final parameters
plots/*.png     summary.json, clients.csv
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from fedsim.core.errors import InputError
from fedsim.core.jsonl import JsonLines, read_lines, to_json, write_text
from fedsim.core.ledger import OPENING, Entry, read_ledger, sealed, until
from fedsim.core.trees import Tree

Metrics = dict[str, Any]
LEDGER, MODEL = "ledger.jsonl", "model.safetensors"
CANARIES, OBSERVATIONS, RESUMED = "canaries.json", "canaries.jsonl", "resumed.jsonl"
_OF_A_RUN = ("scenario", "knobs", "settings", "data", "rounds", "population", "cohort", "canaries")


class RunFolder:
    """One run's folder, open for writing. Make one with `create` or `reopen`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics = JsonLines(path / "metrics.jsonl")
        self._observations = JsonLines(path / OBSERVATIONS)
        self.seal = OPENING  # the ledger's newest

    @classmethod
    def create(cls, path: Path, description: Mapping[str, Any]) -> RunFolder:
        """A new folder. It appears under its name only once `run.json` is in it.

        Raises:
            InputError: there is something at `path`.
        """
        refuse_existing(path)
        content = to_json(description, indent=2)  # first: where it cannot be written, nothing is
        draft = path.with_name(f".{path.name}.{uuid4().hex[:12]}.new")
        try:
            (draft / "checkpoint").mkdir(parents=True)
            (draft / "plots").mkdir()
            for name in ("metrics.jsonl", LEDGER):
                (draft / name).touch()
            write_text(draft / "run.json", content)
            draft.rename(path)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            refuse_existing(path)  # since the first look
            raise
        return cls(path)

    @classmethod
    def reopen(cls, path: Path, description: Mapping[str, Any]) -> RunFolder:
        """The folder of a run that goes on.

        Raises:
            InputError: there is no run at `path`, or it is not the run that `description` says.
        """
        before = read_description(path)
        for part in _OF_A_RUN:
            _same(part, before.get(part), json.loads(to_json(description[part])))
        leftovers = path.parent.glob(f".{path.name}.*.new")
        for draft in leftovers:
            shutil.rmtree(draft, ignore_errors=True)
        return cls(path)

    def append(self, metrics: Metrics) -> None:
        """Add a round's metrics."""
        self._metrics.append(metrics)

    def append_observation(self, row: Mapping[str, Any]) -> None:
        """Add the observations of canaries in a round."""
        self._observations.append(dict(row))

    def rewind(self, round_num: int) -> list[Metrics]:
        """Remove every round after `round_num`; gives the metrics that are left."""
        self._observations.rewind(round_num)
        return self._metrics.rewind(round_num)

    def rewrite(self, metrics: Iterable[Metrics]) -> None:
        """Replace all metrics by these."""
        self._metrics.rewrite(metrics)

    def charge(self, entries: Sequence[Entry]) -> None:
        """Add entries to the ledger; they are on the disk when this returns."""
        if not entries:
            return
        lines, self.seal = sealed(entries, self.seal)
        with (self.path / LEDGER).open("a", encoding="utf-8") as stream:
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())

    def rewind_ledger(self, round_num: int, seal: str) -> list[Entry]:
        """Remove every entry after `round_num`, whose noise will be drawn again; gives those left.

        The removal is recorded first, in resumed.jsonl: an audit needs to know what ran twice.

        Args:
            round_num: the last one that is done.
            seal: what the ledger's was by then.

        Raises:
            InputError: the ledger was changed by hand; it is left alone.
        """
        entries, _ = read_ledger(self.path / LEDGER)
        kept = until(entries, round_num)
        lines, self.seal = sealed(kept)
        if self.seal != seal:
            raise InputError(
                f"run: ledger.jsonl must end as the checkpoint of round {round_num} says; got "
                "another end. Take it from a copy of the run folder."
            )
        if len(kept) < len(entries):
            row = {"after": round_num, "until": entries[-1].round}
            JsonLines(self.path / RESUMED).rewrite([*read_lines(self.path / RESUMED), row])
        write_text(self.path / LEDGER, lines)
        return kept

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, all or nothing. What rounds left reaches the disk first."""
        self._metrics.sync()
        self._observations.sync()
        target = self.path / "checkpoint" / "state.pt"
        partial = target.with_suffix(".tmp")
        with partial.open("wb") as stream:
            torch.save(dict(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None where there is none yet."""
        target = self.path / "checkpoint" / "state.pt"
        if not target.is_file():
            return None
        state: dict[str, Any] = torch.load(target, map_location="cpu", weights_only=True)
        return state

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        write_text(self.path / "summary.json", to_json(summary, indent=2))

    def write_model(self, params: Tree) -> None:
        """Write `model.safetensors`, all or nothing."""
        target = self.path / MODEL
        partial = target.with_suffix(".tmp")
        partial.write_bytes(save({name: t.cpu().contiguous() for name, t in params.items()}))
        partial.replace(target)

    def write_canaries(self, canaries: Mapping[str, Any]) -> None:
        """Write `canaries.json`."""
        write_text(self.path / CANARIES, to_json(canaries))

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._observations.close()


def refuse_existing(path: Path) -> None:
    """Refuse to start a run, or a study, where there is something already.

    Raises:
        InputError: there is something at `path`.
    """
    if path.exists():
        raise InputError(
            f"run: --out must be a new folder; got {str(path)!r}, which exists. "
            "Choose another, or go on with what is there: --resume, or fedsim.resume(folder)."
        )


def read_description(path: Path) -> dict[str, Any]:
    """The content of `run.json`.

    Raises:
        InputError: there is no run at `path`.
    """
    file = path / "run.json"
    if not file.is_file():
        raise InputError(
            f"run: the folder must be of a run, with a run.json; got {str(path)!r}. "
            "Give the folder that `fedsim run` printed."
        )
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text at all
        description = error
    if not isinstance(description, dict):
        raise InputError(
            f"run: run.json must be as the run wrote it; got another: {description!r}. "
            "Take it from a copy of the run folder."
        )
    return description


def read_metrics(path: Path) -> list[Metrics]:
    """The rows of `metrics.jsonl`; a last row that a kill cut short is left out."""
    return read_lines(path / "metrics.jsonl")


def read_model(path: Path) -> Tree:
    """The parameters in `model.safetensors`.

    Raises:
        InputError: the run has not ended, or the file is not as the run wrote it.
    """
    file = path / MODEL
    if not file.is_file():
        raise InputError(
            f"run: the folder must be of a run that has ended, with a {MODEL}; got "
            f"{str(path)!r}. Go on with the run, with --resume."
        )
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"run: {MODEL} must be as the run wrote it; got another: {error}. "
            "Take it from a copy of the run folder."
        ) from None


def _same(part: str, before: Any, now: Any) -> None:
    if before == now:
        return
    if not isinstance(before, dict) or not isinstance(now, dict):
        before, now = {part: before}, {part: now}
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    key = changed[0]
    raise InputError(
        f"run: {key} must be as the run had it, {before.get(key)!r}, to resume; "
        f"got {now.get(key)!r}. Resume with the same {part}, or start a new run in another --out."
    )
