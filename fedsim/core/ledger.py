"""The ledger: one line for every private release of a run, each sealed with the one before.

A line is charged before its round is worked on, so that a run killed at any moment has never
released more than its ledger says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fedsim.core.errors import InputError
from fedsim.core.jsonl import read_objects

OPENING = "0" * 64  # the seal before the first line


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The private releases of one round that are alike.

    round: counted from 1.
    unit: who is protected, "example" or "client"; relation: between neighbouring datasets.
    mechanism: what was done; details has the numbers that only this one has.
    sampler: how units came into a release: its kind, and the probabilities that it needs.
    sensitivity: largest change of the noised sum, L2; noise_std is per coordinate of that sum.
    noise_multiplier: noise_std / sensitivity.
    steps: releases, one after the other, by each of `clients`.
    calls: questions in each release that see the same sample, every one noised like this.
    clients: whose data; all alike where there is none.
    """

    round: int
    unit: str
    relation: str
    mechanism: str
    sampler: Mapping[str, Any]
    sensitivity: float
    noise_std: float
    noise_multiplier: float
    steps: int = 1
    calls: int = 1
    clients: tuple[int, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


class Account(Protocol):
    """What a ledger has spent so far."""

    @property
    def delta(self) -> float:
        """The failure probability at which epsilon is given."""
        ...

    def charge(self, entries: Iterable[Entry]) -> Account:
        """The account with these entries on top; this one stays as it is."""
        ...

    def epsilon(self) -> float | None:
        """What all that was charged comes to at `delta`, or a little more; None: no guarantee."""
        ...

    def exactly(self) -> float | None:
        """The same, as exactly as it can be had."""
        ...

    def beside(self) -> Mapping[str, float | None]:
        """What other accountants say of the same; None where one has no answer."""
        ...

    def warnings(self) -> Sequence[str]:
        """What a person should know who believes that number."""
        ...


def sealed(entries: Iterable[Entry], seal: str = OPENING) -> tuple[str, str]:
    """The lines for these entries after a line with that seal; and the last one's seal."""
    lines = []
    for entry in entries:
        content = asdict(entry)
        seal = _seal(seal, content)
        lines.append(json.dumps(content | {"seal": seal}, allow_nan=False) + "\n")
    return "".join(lines), seal


def read_ledger(path: Path) -> tuple[list[Entry], str]:
    """The entries of `ledger.jsonl` and the last one's seal.

    A last line that a kill cut short is left out: what it announced was never worked on.

    Raises:
        InputError: a line was changed, removed or added after the run wrote it.
    """
    entries, seal = list[Entry](), OPENING
    for number, content in read_objects(
        path, lambda line, what: _broken(line, f"it is not {what}")
    ):
        found = content.pop("seal", None)
        if found != _seal(seal, content):
            raise _broken(number, "its seal does not fit")
        seal = found
        try:
            entries.append(Entry(**content | {"clients": tuple(content["clients"])}))
        except (TypeError, KeyError) as error:
            raise _broken(number, f"its fields are wrong: {error}") from None
    return entries, seal


def until(entries: Sequence[Entry], round_num: int) -> list[Entry]:
    """Those of rounds up to that one."""
    return [entry for entry in entries if entry.round <= round_num]


def _seal(before: str, content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256((before + text).encode()).hexdigest()


def _broken(number: int, why: str) -> InputError:
    return InputError(
        f"ledger: line {number} must be as the run wrote it; got another: {why}. "
        "Take the ledger from a copy of the run folder; an edited one proves nothing."
    )


def over_budget(budget: float | None, account: Account, round_num: int) -> str | None:
    """Why a round may not begin, or None. account: with what that round would spend."""
    if budget is None:
        return None
    epsilon = account.epsilon()
    if epsilon is not None and epsilon > budget:
        epsilon = account.exactly()
    if epsilon is not None and epsilon <= budget:
        return None
    if epsilon is None:
        return f"the budget of epsilon {budget:g} cannot be kept, as there is no guarantee"
    return f"round {round_num} would take epsilon to {epsilon:.4g}, above the budget of {budget:g}"
