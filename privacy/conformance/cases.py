"""The cases: pairs of cohorts that differ in one unit.

    case              what the unit does                                           rule
    ordinary          contributes far more than the clip norm                      8
    0-d parameter     all of that in the one number of a tensor without axes       8
    integer buffer    the same in a counter, as of batches seen                    8
    NaN update        contributes NaN in one place                                 6
    zero update       contributes exactly nothing                                  6
    empty cohort      is the only one to come, or nobody does                      7
    skewed weights    says it has a thousand times the others' examples            5
    drawn twice       is in the cohort twice, as by sampling with replacement      3
    dropout           is one of two that answer, after all had been asked          5

In the other cohort of a pair the unit contributes a millionth of the clip norm (and nobody comes,
in the empty one): what is hidden is what a unit contributes, so both must look the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.conformance.subject import Arrays, Cohort, Contribution, Subject

RULES = {
    3: "the accountant must know the sampler",
    5: "divide by a public number",
    6: "what a unit contributes never decides whether there is a release",
    7: "an empty sample is a normal round: noise is added, and charged",
    8: "what is stated as the sensitivity is the sensitivity",
}

Pair = tuple[Cohort, Cohort]
_SHAPES = {"body.weight": (6, 4), "body.bias": (6,)}
_LONG, _SHORT = 1e4, 1e-6  # in clip norms
_SAFE = "noise for all that the unit can move"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pair of neighbouring cohorts, and what is asked of both.

    name: a few words. rule: the number of the rule that a failure breaks.
    expected: what should happen.
    neighbours: subject -> two cohorts that differ in one unit; noise is measured on the first.
    refusable: whether refusing both, or releasing neither, will do.
    local: whether it is asked of subjects whose units noise their own contributions.
    weighted: whether it is about weights, which examples have none of.
    """

    name: str
    rule: int
    expected: str
    neighbours: Callable[[Subject], Pair]
    refusable: bool = False
    local: bool = True
    weighted: bool = False

    def asks(self, subject: Subject) -> bool:
        """Whether the case means anything for a subject."""
        return (self.local or not subject.local) and (not self.weighted or subject.unit == "client")


def _zeros(extra: Arrays) -> Arrays:
    floats = {name: np.zeros(shape, dtype=np.float32) for name, shape in _SHAPES.items()}
    return floats | {name: np.zeros_like(array) for name, array in extra.items()}


def _spread(length: float) -> dict[str, NDArray[Any]]:
    """An update of this length, the same in every number."""
    size = sum(int(np.prod(shape)) for shape in _SHAPES.values())
    each = length / size**0.5
    return {name: np.full(shape, each, dtype=np.float32) for name, shape in _SHAPES.items()}


def _others(subject: Subject, count: int, extra: Arrays) -> tuple[Contribution, ...]:
    """Units 1 to `count`, each a tenth of the clip norm in a direction of its own."""
    found = []
    for unit in range(1, count + 1):
        drawn = np.random.default_rng(unit)
        update = {name: drawn.standard_normal(shape) for name, shape in _SHAPES.items()}
        length = sum(float((array**2).sum()) for array in update.values()) ** 0.5
        scale = 0.1 * subject.clip_norm / length
        floats = {name: (scale * array).astype(np.float32) for name, array in update.items()}
        zeros = {name: np.zeros_like(array) for name, array in extra.items()}
        found.append(Contribution(unit=unit, update=floats | zeros))
    return tuple(found)


def _pair(
    subject: Subject,
    nasty: Arrays,
    *,
    others: int | None = None,
    times: int = 1,
    examples: int = 1,
) -> Pair:
    """Unit 0 contributes this, or next to nothing, among others."""
    extra = {name: array for name, array in nasty.items() if name not in _SHAPES}
    rest = _others(subject, subject.cohort - times if others is None else others, extra)
    tiny = _spread(_SHORT * subject.clip_norm) | {n: np.zeros_like(a) for n, a in extra.items()}

    def cohort(update: Arrays) -> Cohort:
        own = (Contribution(unit=0, update=update, examples=examples),) * times
        return Cohort(like=_zeros(extra), contributions=own + rest, asked=subject.cohort)

    return cohort(nasty), cohort(tiny)


def _ordinary(subject: Subject) -> Pair:
    return _pair(subject, _spread(_LONG * subject.clip_norm))


def _without_axes(subject: Subject) -> Pair:
    tiny = _spread(_SHORT * subject.clip_norm)
    return _pair(subject, tiny | {"scale": np.array(_LONG * subject.clip_norm, dtype=np.float32)})


def _integer_buffer(subject: Subject) -> Pair:
    batches = np.full(2, max(1000, int(_LONG * subject.clip_norm)), dtype=np.int64)
    return _pair(subject, _spread(_SHORT * subject.clip_norm) | {"batches": batches})


def _not_finite(subject: Subject) -> Pair:
    update = _spread(0.5 * subject.clip_norm)
    update["body.bias"][0] = np.nan
    return _pair(subject, update)


def _zero(subject: Subject) -> Pair:
    return _pair(subject, _spread(0.0))


def _empty(subject: Subject) -> Pair:
    (someone, *_), like = _ordinary(subject)[0].contributions, _zeros({})
    nobody = Cohort(like=like, contributions=(), asked=0)
    return nobody, Cohort(like=like, contributions=(someone,), asked=1)


def _skewed(subject: Subject) -> Pair:
    return _pair(subject, _spread(_LONG * subject.clip_norm), examples=1000)


def _twice(subject: Subject) -> Pair:
    return _pair(subject, _spread(_LONG * subject.clip_norm), times=2)


def _dropout(subject: Subject) -> Pair:
    return _pair(subject, _spread(_LONG * subject.clip_norm), others=1)


CASES = (
    Case(name="ordinary", rule=8, expected=_SAFE, neighbours=_ordinary),
    Case(name="0-d parameter", rule=8, expected=_SAFE, neighbours=_without_axes),
    Case(
        name="integer buffer",
        rule=8,
        refusable=True,
        neighbours=_integer_buffer,
        expected=f"a refusal whatever is in it, or {_SAFE}",
    ),
    Case(
        name="NaN update",
        rule=6,
        neighbours=_not_finite,
        expected="the release of a unit that contributed nothing",
    ),
    Case(
        name="zero update",
        rule=6,
        neighbours=_zero,
        expected="a release, as of any other contribution",
    ),
    Case(
        name="empty cohort",
        rule=7,
        local=False,
        neighbours=_empty,
        expected="noise, as in any other round",
    ),
    Case(
        name="skewed weights",
        rule=5,
        refusable=True,
        weighted=True,
        neighbours=_skewed,
        expected=f"a refusal, or {_SAFE}",
    ),
    Case(
        name="drawn twice",
        rule=3,
        refusable=True,
        neighbours=_twice,
        expected=f"a refusal, or {_SAFE}",
    ),
    Case(
        name="dropout",
        rule=5,
        refusable=True,
        neighbours=_dropout,
        expected=f"a refusal, or {_SAFE}",
    ),
)
