"""Columns of a study's table that are read from finished runs, summarised over seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.core.errors import refusal
from fedsim.runs.statistics import Interval, interval

Answer = str | float | None
"""A word, a number, or None where a run has no answer."""
Reads = Callable[[Path], Mapping[str, Answer]]
"""A run's folder -> its answers, by name."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The answers of an arm's runs under one name.

    mean: of the finite numbers, with its interval over seeds; None where there is none.
    words: how often each of the other answers was given, the most frequent first.
    runs: how many there are.
    """

    mean: Interval | None
    words: Mapping[str, int]
    runs: int

    def text(self) -> str:
        """As people read it: `1.83 +/- 0.02`, `violated 20/20`, `consistent 19, violated 1`."""
        if self.mean is None and len(self.words) == 1:
            return "".join(f"{word} {times}/{self.runs}" for word, times in self.words.items())
        counted = [f"{word} {times}" for word, times in self.words.items()]
        return ", ".join(([] if self.mean is None else [_digits(self.mean)]) + counted)


def read_columns(reads: Reads | None, folder: Path) -> dict[str, Answer]:
    """Read the columns from a finished run's folder.

    Raises:
        InputError: an answer is neither a number nor a word.
    """
    answers = {} if reads is None else dict(reads(folder))
    for name, answer in answers.items():
        if not (answer is None or isinstance(answer, str | int | float)):
            remedy = "Use float(...), or a name for each part."
            raise refusal(
                "study", f"{name}, read from a run,", "a number or a word", answer, remedy
            )
    return answers


def summarise_columns(answers: Mapping[int, Mapping[str, Answer]]) -> dict[str, Cell]:
    """Summarise what was read from an arm's runs, by seed: one cell a name.

    Guarantees:
        The order in which the runs ended does not matter.
        A run that lacks an answer that another one of the arm has counts as `none`.
    """
    runs = [answers[seed] for seed in sorted(answers)]
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: _cell([run.get(name) for run in runs]) for name in names}


def _cell(answers: Sequence[Answer]) -> Cell:
    given = [_number_or_word(answer) for answer in answers]
    numbers = [one for one in given if not isinstance(one, str)]
    words = Counter(one for one in given if isinstance(one, str))
    return Cell(
        mean=interval(numbers) if numbers else None,
        words=dict(words.most_common()),
        runs=len(answers),
    )


def _number_or_word(answer: Answer) -> str | float:
    """A finite number as it is, and everything else as a word."""
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    if answer is None or isinstance(answer, str):
        return answer or "none"
    return answer if math.isfinite(answer) else f"{answer:g}"


def _digits(mean: Interval) -> str:
    """With three significant digits."""
    size = math.floor(math.log10(abs(mean.mean))) if mean.mean else 0
    return mean.text(digits=min(max(2 - size, 0), 6))
