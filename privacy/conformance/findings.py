"""How a subject is examined: many releases of both cohorts of a pair, and what they give away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy import validate
from privacy.conformance.cases import CASES, RULES, Case
from privacy.conformance.subject import Cohort, Subject

_ENOUGH = 0.65  # of the noise that is called for: what is measured is uncertain by about a tenth


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A case that a subject fails. rule: the number of the rule it breaks, in `cases.RULES`."""

    subject: str
    case: str
    expected: str
    happened: str
    rule: int

    def __str__(self) -> str:
        """One line, for a person."""
        return (
            f"{self.subject}: {self.case} must give {self.expected}; got {self.happened}. "
            f"Rule {self.rule}: {RULES[self.rule]}."
        )


@dataclass(frozen=True)
class _Refused:
    """Why there was no release at all."""

    words: str


_Releases = dict[str, NDArray[np.float64]]  # name -> [repeats, ...]


def check(subject: Subject, cases: Sequence[Case] = CASES, *, repeats: int = 40) -> list[Finding]:
    """What a subject fails, in the order of the cases; nothing where it passes all.

    Args:
        subject: whose `release` is called 2 repeats times for each case.
        cases: those to examine.
        repeats: releases of each cohort; the fewer, the less certain.

    Raises:
        PrivacyError: repeats is below 10.

    Guarantees:
        A mechanism that clips, sums, and noises what it sums passes.
        Noise of half the size, a tensor without noise, and one that is not clipped are found.
    """
    validate.whole("check", "repeats", repeats, 10)
    asked = [case for case in cases if case.asks(subject)]
    found = [(case, _examined(subject, case, repeats)) for case in asked]
    return [
        Finding(
            subject=subject.name,
            case=_name(subject, case),
            expected=case.expected,
            happened=happened,
            rule=case.rule,
        )
        for case, happened in found
        if happened
    ]


def _name(subject: Subject, case: Case) -> str:
    return case.name.replace("cohort", "batch") if subject.unit == "example" else case.name


def _examined(subject: Subject, case: Case, repeats: int) -> str:
    """What is wrong; empty where nothing is."""
    first, second = (_released(subject, cohort, repeats) for cohort in case.neighbours(subject))
    for one, other in ((first, second), (second, first)):
        if isinstance(one, _Refused):
            both = isinstance(other, _Refused)
            if both and case.refusable:
                return ""
            which = "whatever the unit does" if both else "for one of two neighbours only"
            return f"{one.words}, {which}"
    assert not isinstance(first, _Refused)
    assert not isinstance(second, _Refused)
    for releases in (first, second):
        for name, values in releases.items():
            if not np.isfinite(values).all():
                return f"a release that is not finite in {name}"
    return _compared(first, second, subject.noise_multiplier)


def _compared(first: _Releases, second: _Releases, noise_multiplier: float) -> str:
    """Whether the noise of every tensor is what the movement of all of them calls for."""
    moved = {name: first[name].mean(axis=0) - second[name].mean(axis=0) for name in first}
    length = sum(float((shift**2).sum()) for shift in moved.values()) ** 0.5
    stds = {name: float(values.var(axis=0, ddof=1).mean()) ** 0.5 for name, values in first.items()}
    quiet = min(stds, key=lambda name: stds[name])
    if not stds[quiet]:
        return f"a release without noise in {quiet}"
    share = stds[quiet] / (noise_multiplier * length) if length else np.inf
    if share >= _ENOUGH:
        return ""
    return f"{share:.2g} of the noise that is called for, in {quiet}"


def _released(subject: Subject, cohort: Cohort, repeats: int) -> _Releases | _Refused:
    found = []
    for _ in range(repeats):
        try:
            release = subject.release(cohort)
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0]
            return _Refused(f"{type(error).__name__} ({first_line})")
        if release is None:
            return _Refused("no release")
        found.append(release)
    return {
        name: np.stack([np.asarray(release[name], dtype=np.float64) for release in found])
        for name in cohort.like
    }
