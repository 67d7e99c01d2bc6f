"""The run folder: what a run leaves behind, written so that a kill loses nothing done.

run.json        scenario, knobs, seed, versions, data fingerprint
metrics.jsonl   one object a round
ledger.jsonl    one object a privacy event (empty without privacy)
checkpoint/     the newest complete state
plots/*.png     summary.json
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fedsim.ledger import OPENING, Entry, read_ledger, sealed, until
from fedsim.validate import InputError

Metrics = dict[str, Any]
LEDGER = "ledger.jsonl"


class RunFolder:
    """One run's folder, open for writing. Make one with `create` or `reopen`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics = (path / "metrics.jsonl").open("a", encoding="utf-8")
        self.seal = OPENING  # the ledger's newest

    @classmethod
    def create(cls, path: Path, description: Mapping[str, Any]) -> RunFolder:
        """A new folder. It appears under its name only once `run.json` is in it.

        Raises:
            InputError: there is something at `path`.
        """
        if path.exists():
            raise InputError(
                f"run: --out must be a new folder; got {str(path)!r}, which exists. "
                "Choose another, or add --resume to go on with that run."
            )
        draft = path.with_name(f".{path.name}.{os.getpid()}.new")
        (draft / "checkpoint").mkdir(parents=True)
        (draft / "plots").mkdir()
        (draft / LEDGER).touch()
        _write_text(draft / "run.json", to_json(description, indent=2))
        draft.rename(path)
        return cls(path)

    @classmethod
    def reopen(cls, path: Path, description: Mapping[str, Any]) -> RunFolder:
        """The folder of a run that goes on.

        Raises:
            InputError: there is no run at `path`, or it is not the run that `description` says.
        """
        before = read_description(path)
        for part in ("scenario", "knobs", "settings", "data"):
            _same(part, before.get(part), json.loads(to_json(description[part])))
        leftovers = path.parent.glob(f".{path.name}.*.new")
        for draft in leftovers:
            shutil.rmtree(draft, ignore_errors=True)
        return cls(path)

    def append(self, metrics: Metrics) -> None:
        """Add a round's metrics."""
        self._metrics.write(to_json(metrics) + "\n")
        self._metrics.flush()

    def rewind(self, round_num: int) -> list[Metrics]:
        """Forget every round after `round_num`; gives the metrics that are left."""
        kept = [row for row in read_metrics(self.path) if row["round"] <= round_num]
        self.rewrite(kept)
        return kept

    def rewrite(self, metrics: Iterable[Metrics]) -> None:
        """Replace all metrics by these."""
        self._metrics.close()
        _write_text(self.path / "metrics.jsonl", "".join(to_json(row) + "\n" for row in metrics))
        self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")

    def charge(self, entries: Sequence[Entry]) -> None:
        """Add entries to the ledger; they are on the disk when this returns."""
        if not entries:
            return
        lines, self.seal = sealed(entries, self.seal)
        with (self.path / LEDGER).open("a", encoding="utf-8") as stream:
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())

    def rewind_ledger(self, round_num: int) -> list[Entry]:
        """Forget every entry after `round_num`, whose noise will come again; gives those left.

        Raises:
            InputError: somebody has changed the ledger.
        """
        kept = until(read_ledger(self.path / LEDGER)[0], round_num)
        lines, self.seal = sealed(kept)
        _write_text(self.path / LEDGER, lines)
        return kept

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, all or nothing. Metrics up to here reach the disk first."""
        os.fsync(self._metrics.fileno())
        target = self.path / "checkpoint" / "state.pt"
        partial = target.with_suffix(".tmp")
        with partial.open("wb") as stream:
            torch.save(dict(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None where the run never got that far."""
        target = self.path / "checkpoint" / "state.pt"
        if not target.is_file():
            return None
        state: dict[str, Any] = torch.load(target, map_location="cpu", weights_only=True)
        return state

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        _write_text(self.path / "summary.json", to_json(summary, indent=2))

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()


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
    description: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return description


def read_metrics(path: Path) -> list[Metrics]:
    """The rows of `metrics.jsonl`; a last row that a kill cut short is left out."""
    rows: list[Metrics] = []
    for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def to_json(value: object, indent: int | None = None) -> str:
    """JSON without NaN: what cannot be said is null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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


def _write_text(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".tmp")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
