"""Testing a subject: repeated releases of both cohorts of each pair, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy import validate
from privacy.conformance.cases import CASES, RULES, Case
from privacy.conformance.subject import Cohort, Subject

_ENOUGH = 0.65  # of the required noise: its measurement is uncertain by about a tenth


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A failed case. rule: the number of the broken rule, in `cases.RULES`."""

    subject: str
    case: str
    expected: str
    happened: str
    rule: int

    def __str__(self) -> str:
        """One readable line."""
        return (
            f"{self.subject}: {self.case} must give {self.expected}; got {self.happened}. "
            f"Rule {self.rule}: {RULES[self.rule]}."
        )


@dataclass(frozen=True)
class _Refused:
    """Why there was no release."""

    reason: str


_Releases = dict[str, NDArray[np.float64]]  # name -> [repeats, ...]


def check(subject: Subject, cases: Sequence[Case] = CASES, *, repeats: int = 40) -> list[Finding]:
    """Test a subject; return the cases it fails, in their order, an empty list if it passes all.

    Args:
        subject: its `release` is called 2 repeats times for each case.
        cases: the cases to run.
        repeats: releases of each cohort; with fewer, results are less certain.

    Raises:
        PrivacyError: repeats is below 10.

    Guarantees:
        A mechanism that clips, sums, and adds noise to the sum passes.
        Half the noise, a tensor without noise, and a tensor that is not clipped are found.
    """
    validate.whole("check", "repeats", repeats, 10)
    applicable = [case for case in cases if case.applies_to(subject)]
    outcomes = [(case, _run_case(subject, case, repeats)) for case in applicable]
    return [
        Finding(
            subject=subject.name,
            case=_name_case(subject, case),
            expected=case.expected,
            happened=failure,
            rule=case.rule,
        )
        for case, failure in outcomes
        if failure
    ]


def _name_case(subject: Subject, case: Case) -> str:
    return case.name.replace("cohort", "batch") if subject.unit == "example" else case.name


def _run_case(subject: Subject, case: Case, repeats: int) -> str:
    """Describe how a subject fails a case; an empty text if it passes."""
    first, second = (_release_all(subject, cohort, repeats) for cohort in case.neighbours(subject))
    for one, other in ((first, second), (second, first)):
        if isinstance(one, _Refused):
            both = isinstance(other, _Refused)
            if both and case.refusable:
                return ""
            which = "for both neighbours" if both else "for one of two neighbours only"
            return f"{one.reason}, {which}"
    assert not isinstance(first, _Refused)
    assert not isinstance(second, _Refused)
    for releases in (first, second):
        for name, values in releases.items():
            if not np.isfinite(values).all():
                return f"a release that is not finite in {name}"
    return _compare_noise(first, second, subject.noise_multiplier)


def _compare_noise(first: _Releases, second: _Releases, noise_multiplier: float) -> str:
    """Describe the tensor with too little noise for the distance between the two mean releases."""
    shifts = {name: first[name].mean(axis=0) - second[name].mean(axis=0) for name in first}
    distance = sum(float((shift**2).sum()) for shift in shifts.values()) ** 0.5
    stds = {name: float(values.var(axis=0, ddof=1).mean()) ** 0.5 for name, values in first.items()}
    least = min(stds, key=lambda name: stds[name])
    if not stds[least]:
        return f"a release without noise in {least}"
    share = stds[least] / (noise_multiplier * distance) if distance else np.inf
    if share >= _ENOUGH:
        return ""
    return f"{share:.2g} of the required noise, in {least}"


def _release_all(subject: Subject, cohort: Cohort, repeats: int) -> _Releases | _Refused:
    """`repeats` releases of a cohort, stacked; or why one of them did not happen."""
    releases = []
    for _ in range(repeats):
        try:
            release = subject.release(cohort)
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0]
            return _Refused(f"{type(error).__name__} ({first_line})")
        if release is None:
            return _Refused("no release")
        releases.append(release)
    return {
        name: np.stack([np.asarray(release[name], dtype=np.float64) for release in releases])
        for name in cohort.like
    }
