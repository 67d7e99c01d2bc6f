"""What the canaries of a run saw: `canaries.json` and `canaries.jsonl` of its folder, as arrays.

Each of M canaries has a fair coin. It is a client of its own, with a direction c_j uniform on the
sphere, that sends 10 C c_j whenever it is asked, or an example of random dots with a random class;
where its coin is 0 it sends nothing ("zero_out") or the opposite ("replace"). Where clients take
turns in groups, canary j is of group j modulo their number. What is seen of it in a round is

    client      <c_j, released noisy sum less what honest clients sent> / C
    example     the cosine between minus its gradient and its client's update

Shapes: T rounds, M canaries, d numbers of an update; a trials of n steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.core.errors import InputError, refusal
from fedsim.core.jsonl import read_objects
from fedsim.runs.folder import CANARIES, OBSERVATIONS
from privacy.auditing.run.files import COPY, cohort_sizes, not_as_written
from privacy.validate import Array

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """What a run's canaries saw.

    Attributes:
        of_examples: whether canaries are examples; else they are clients.
        opposed: whether one whose coin is 0 sends the opposite; else it sends nothing.
        included: the coins [M].
        dims: d, or fewer where clipping made directions meet more often; 0 of examples.
        asked: whether each was chosen in each round [T, M].
        seen: what is seen of each in each round [T, M]; NaN where nothing is.
        overlaps: what of that is other canaries', where the run says it [T, M].
        cosines: between each direction and all that the model moved by [M]; None without.
        probe: single steps with a gradient canary [a, n] and without [b, n]; None without.
    """

    of_examples: bool
    opposed: bool
    included: Mask
    dims: int
    asked: Mask
    seen: Array
    overlaps: Array | None = None
    cosines: Array | None = None
    probe: tuple[Array, Array] | None = None

    @property
    def canaries(self) -> int:
        """M."""
        return len(self.included)

    @property
    def rounds(self) -> int:
        """T."""
        return len(self.seen)

    def only(self, kept: Mask) -> Record:
        """Of these canaries [M] alone."""
        return replace(
            self,
            included=self.included[kept],
            asked=self.asked[:, kept],
            seen=self.seen[:, kept],
            overlaps=None if self.overlaps is None else self.overlaps[:, kept],
            cosines=None if self.cosines is None else self.cosines[kept],
        )

    @property
    def sent(self) -> Array:
        """What each canary sent in each round along its direction, in clip norms [T, M]."""
        absent = -1.0 if self.opposed else 0.0
        return np.asarray(np.where(self.asked, np.where(self.included, 1.0, absent), 0.0))


def read(folder: Path, unit: str | None = None) -> Record | None:
    """The canaries of a run in the rounds of its `metrics.jsonl`; None without canaries.

    A last row that a kill cut short is left out. Of a round that was done twice the later counts.

    Args:
        folder: the run folder.
        unit: what the run protects, as its `run.json` says; left out, it is not compared.

    Raises:
        InputError: a file is missing, is not as the run wrote it, or lacks a round.
    """
    if not (folder / CANARIES).is_file() and not (folder / OBSERVATIONS).is_file():
        return None
    rounds = len(cohort_sizes(folder))
    for name in (CANARIES, OBSERVATIONS):
        if not (folder / name).is_file() and (rounds or name == CANARIES):
            raise InputError(f"audit: {name} must be in the folder; got none. {COPY}")
    content = _content(folder / CANARIES)
    coins, of_examples = _coins(content.get("included")), content["unit"] == "example"
    rows = _rows(folder / OBSERVATIONS, rounds)
    asked = np.zeros((len(rows), len(coins)), dtype=bool)
    for row, chosen in zip(rows, asked, strict=True):
        chosen[_numbers(row.get("asked"), len(coins), row["round"])] = True
    record = Record(
        of_examples=of_examples,
        opposed=content["relation"] == "replace",
        included=coins,
        dims=0 if of_examples else _dims(content.get("dims")),
        asked=asked,
        seen=_table(rows, "seen", len(coins)),
        overlaps=_table(rows, "overlaps", len(coins)) if rows and "overlaps" in rows[0] else None,
        cosines=_cosines(content.get("cosines"), len(coins)),
        probe=_probe(content.get("probe")),
    )
    _check_numbers(record)
    if unit is not None and content["unit"] != unit:
        raise InputError(
            f"audit: {CANARIES} must be of this run, which protects {unit}s; got "
            f"{content['unit']}s. {COPY}"
        )
    return record


def _content(path: Path) -> dict[str, Any]:
    """`canaries.json`, with a unit and a relation that are known."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text at all
        raise _wrong(CANARIES, "JSON", f"{error}") from None
    if not isinstance(content, dict):
        raise _wrong(CANARIES, "an object", content)
    for key, known in (("unit", ("client", "example")), ("relation", ("zero_out", "replace"))):
        if content.get(key) not in known:
            raise _wrong(f"{key} in {CANARIES}", " or ".join(known), content.get(key))
    return content


def _check_numbers(record: Record) -> None:
    """Refuse a round without a number where there has to be one."""
    if record.overlaps is not None and np.isnan(record.overlaps).any():
        late = int(np.flatnonzero(np.isnan(record.overlaps).any(axis=1))[0]) + 1
        raise _wrong(f"overlaps of round {late}", "a number for each canary", None)
    unseen = np.isnan(record.seen) & record.asked
    if not record.of_examples and unseen.any():
        late = int(np.flatnonzero(unseen.any(axis=1))[0]) + 1
        raise _wrong(f"seen of round {late}", "a number for each canary that was asked", None)


def _dims(value: Any) -> int:
    if not _whole(value) or not 1 <= value < 1 << 60:
        raise _wrong(f"dims in {CANARIES}", "a whole number >= 1", value)
    return int(value)


def _rows(path: Path, rounds: int) -> list[Mapping[str, Any]]:
    """A row for each round up to that one, in order."""
    wrong, found = not_as_written(OBSERVATIONS), dict[int, Mapping[str, Any]]()
    for number, row in read_objects(path, wrong) if path.is_file() else ():
        if not _whole(row.get("round")):
            raise wrong(number, "an object with its round")
        found[row["round"]] = row
    missing = [number for number in range(1, rounds + 1) if number not in found]
    if missing:
        raise _wrong(OBSERVATIONS, "of every round in metrics.jsonl", f"none of round {missing[0]}")
    return [found[number] for number in range(1, rounds + 1)]


def _coins(value: Any) -> Mask:
    if not isinstance(value, list) or not value or any(one not in (0, 1) for one in value):
        raise _wrong(f"included in {CANARIES}", "a 0 or a 1 for each canary", value)
    return np.asarray(value, dtype=bool)


def _numbers(value: Any, canaries: int, round_num: int) -> list[int]:
    fits = isinstance(value, list) and all(_whole(one) and 0 <= one < canaries for one in value)
    if not fits or len(set(value)) < len(value):
        rule = f"different numbers of canaries below {canaries}"
        raise _wrong(f"asked of round {round_num}", rule, value)
    return list(value)


def _cosines(value: Any, canaries: int) -> Array | None:
    if value is None:
        return None
    found = _array(value, f"cosines in {CANARIES}", "a number in [-1, 1] for each canary")
    if found.shape != (canaries,) or not (abs(found) <= 1 + 1e-6).all():
        raise _wrong(f"cosines in {CANARIES}", "a number in [-1, 1] for each canary", value)
    return found


def _probe(value: Any) -> tuple[Array, Array] | None:
    if value is None:
        return None
    rule = "numbers inside [a, n] and outside [b, n]"
    if not isinstance(value, dict) or not {"inside", "outside"} <= value.keys():
        raise _wrong(f"probe in {CANARIES}", rule, value)
    inside, outside = (
        _array(value[key], f"probe in {CANARIES}", rule) for key in ("inside", "outside")
    )
    both = np.isfinite(inside).all() and np.isfinite(outside).all() and inside.size
    if inside.ndim != 2 or outside.ndim != 2 or inside.shape[1] != outside.shape[1] or not both:
        raise _wrong(f"probe in {CANARIES}", rule, (inside.shape, outside.shape))
    return inside, outside


def _table(rows: Sequence[Mapping[str, Any]], key: str, canaries: int) -> Array:
    """What rows say of each canary [T, M]; null is NaN."""
    table = np.empty((len(rows), canaries))
    rule = f"a finite number or null for each of {canaries} canaries"
    for place, row in enumerate(rows):
        value, name = row.get(key), f"{key} of round {row['round']}"
        if not isinstance(value, list) or len(value) != canaries:
            raise _wrong(name, rule, value)
        numbers = _array(value, name, rule)
        if numbers.shape != (canaries,) or np.isinf(numbers).any():
            raise _wrong(name, rule, value)
        table[place] = numbers
    return table


def _array(value: Any, name: str, rule: str) -> Array:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise _wrong(name, rule, value) from None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(name: str, rule: str, value: object) -> InputError:
    shown = value if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return refusal("audit", name, rule, shown, COPY)
