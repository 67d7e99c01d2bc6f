"""Callbacks, which observe a run and may stop it: progress bars, early stopping, trackers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.core.errors import InputError, at_least, refusal
from fedsim.runs.folder import Metrics
from fedsim.runs.result import Result


def _nothing(*given: Any) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Callback:
    """Functions that a run calls; those left out do nothing.

    run_started: (rounds, rounds already done, run folder), once everything is prepared.
    round_done: (the round's row of metrics.jsonl) -> True to stop the run after this round.
    run_done: (result), when the run folder is complete.

    Guarantees:
        A run that a callback stopped is complete: evaluated, summed up, and resumable.
    """

    run_started: Callable[[int, int, Path], None] = _nothing
    round_done: Callable[[Metrics], bool | None] = _nothing
    run_done: Callable[[Result], None] = _nothing


def check_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """The callbacks as a tuple.

    Raises:
        InputError: they are no sequence of `Callback`.
    """
    given = tuple(callbacks) if isinstance(callbacks, Sequence) else (callbacks,)
    for one in given:
        if not isinstance(one, Callback) or not isinstance(callbacks, Sequence):
            raise refusal(
                "run",
                "callbacks",
                "a list of Callback",
                callbacks,
                "Write callbacks=[fedsim.Callback(round_done=function)].",
            )
    return given


def wants_to_stop(answer: Any) -> bool:
    """Whether an answer of `round_done` is True, NumPy's included; anything else lets it go on."""
    return isinstance(answer, bool | np.bool_) and bool(answer)


def early_stopping(metric: str = "test_accuracy", *, patience: int = 5) -> Callback:
    """Stop a run when a metric has not improved for a while.

    Args:
        metric: a column of metrics.jsonl. Of a loss less is better, of anything else more.
        patience: evaluated rounds without a new best value.

    Raises:
        InputError: patience is below 1; or (during a run) an evaluated round lacks the metric.
    """
    at_least("early_stopping", 1, "Use 5.", patience=patience)
    sign = -1.0 if metric.endswith("loss") else 1.0
    best, waited = -math.inf, 0

    def run_started(rounds: int, done: int, folder: Path) -> None:
        nonlocal best, waited
        best, waited = -math.inf, 0

    def round_done(row: Metrics) -> bool:
        nonlocal best, waited
        value = row.get(metric)
        if value is None and "test_loss" not in row:  # not evaluated in this round
            return False
        if not isinstance(value, int | float):
            known = [name for name, column in row.items() if isinstance(column, float)]
            raise InputError(
                f"early_stopping: metric must be one that the run reports, of {', '.join(known)}; "
                f"got {metric!r}. Use another."
            )
        better = sign * value > best
        best, waited = (sign * value, 0) if better else (best, waited + 1)
        return waited >= patience

    return Callback(run_started=run_started, round_done=round_done)
