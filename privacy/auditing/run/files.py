"""A run folder as an audit reads it: every file checked, whatever has happened to it since.

Where files do not fit each other nothing can be claimed, and all of this raises an InputError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedsim.core.errors import InputError
from fedsim.core.jsonl import read_objects
from fedsim.core.ledger import Entry, read_ledger
from fedsim.runs.folder import LEDGER, RESUMED, read_description

COPY = "Take it from a copy of the run folder."
_RESUME = "Resume the run, or take it from a copy of the run folder."
METRICS, SUMMARY = "metrics.jsonl", "summary.json"


class Meant(NamedTuple):
    """What `run.json` says of a run.

    private: whether anything is protected. delta: None where the run does not say.
    """

    private: bool
    unit: str
    relation: str
    mechanism: str
    sampling: str
    noise_by: str
    protects_from: str
    delta: float | None
    rounds: int
    population: int
    seed: int
    versions: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What a run left.

    entries: of its ledger. sizes: of its cohorts, round by round. repeated: (first, last) of the
    rounds that were charged for and done once more, each time that it was resumed.
    """

    meant: Meant
    entries: Sequence[Entry]
    sizes: Sequence[int]
    repeated: Sequence[tuple[int, int]]


def traces(folder: Path) -> Traces:
    """What a run left, finished or not.

    Raises:
        InputError: it is no run, or a file is missing, cut, or not as the run wrote it.
    """
    meant = _meant(folder)
    for name in (LEDGER, METRICS):
        if not (folder / name).is_file():
            raise InputError(
                f"audit: the folder must have its {name}; got {str(folder)!r} without. {COPY}"
            )
    entries, seal = read_ledger(folder / LEDGER)
    units = {entry.unit for entry in entries} - {meant.unit}
    if units:
        raise InputError(
            f"audit: {LEDGER} must be of this run, which protects {meant.unit}s; got one of "
            f"{units.pop()}s. {COPY}"
        )
    sizes = cohort_sizes(folder)
    known = _seal(folder / SUMMARY)
    if meant.private:
        _whole(entries, sizes, None if known is None else known == seal)
    return Traces(meant=meant, entries=entries, sizes=sizes, repeated=_repeated(folder))


def cohort_sizes(folder: Path) -> list[int]:
    """Of each round that is done, from the first.

    Raises:
        InputError: a row is not as the run wrote it.
    """
    wrong, sizes = not_as_written(METRICS), list[int]()
    for number, row in read_objects(folder / METRICS, wrong):
        size = row.get("cohort")
        if row.get("round") != number or not isinstance(size, int) or size < 0:
            raise wrong(number, f"of round {number}, with its cohort")
        sizes.append(size)
    return sizes


def not_as_written(file: str) -> Callable[[int, str], InputError]:
    """(number of a line of that file, what it must be) -> what to raise."""
    return lambda number, rule: InputError(
        f"audit: line {number} of {file} must be {rule}; got something else. {COPY}"
    )


def _meant(folder: Path) -> Meant:
    description = read_description(folder)
    try:
        privacy, settings = description["privacy"], description["settings"]
        return Meant(
            private=privacy["unit"] != "none",
            unit=str(privacy["unit"]),
            relation=str(privacy["relation"]),
            mechanism=str(privacy["mechanism"]),
            sampling=str(privacy["sampling"]),
            noise_by=str(privacy["noise_by"]),
            protects_from=str(privacy["protects_from"]),
            delta=privacy.get("delta"),
            rounds=int(description["rounds"]),
            population=int(description["population"]),
            seed=settings["seed"],
            versions=description["versions"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"audit: run.json must be as the run wrote it; got another: {error!r}. {COPY}"
        ) from None


def _whole(entries: Sequence[Entry], sizes: Sequence[int], sealed: bool | None) -> None:
    """Refuse a ledger or metrics that lack their end.

    A round is charged for before it is worked on, and has its row when it is done; one in which
    no client was asked may cost nothing. sealed: whether the summary knows this ledger; None if
    there is no summary.
    """
    last = max((entry.round for entry in entries), default=0)
    asked = max((number for number, size in enumerate(sizes, start=1) if size), default=0)
    if sealed is False or (sealed is None and asked > last):
        raise InputError(
            f"audit: {LEDGER} must go to the end of the run; got one that ends with round {last}. "
            f"{COPY}"
        )
    if last > len(sizes) + 1:
        raise InputError(
            f"audit: {METRICS} must go to the end of the run, round {last} or the one before; got "
            f"{len(sizes)} rounds. {_RESUME}"
        )


def _seal(path: Path) -> str | None:
    """The last seal that the summary knows; None where the run has none yet."""
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["privacy"]["seal"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"audit: {SUMMARY} must know the ledger's seal; got one that does not. {COPY}"
        ) from None


def _repeated(folder: Path) -> list[tuple[int, int]]:
    if not (folder / RESUMED).is_file():
        return []
    wrong, spans = not_as_written(RESUMED), list[tuple[int, int]]()
    for number, row in read_objects(folder / RESUMED, wrong):
        after, until = row.get("after"), row.get("until")
        if not isinstance(after, int) or not isinstance(until, int):
            raise wrong(number, "of whole rounds, after and until")
        spans.append((after + 1, until))
    return spans
