"""The cases: pairs of cohorts that differ in one unit.

    case              contribution of the unit                                     rule
    ordinary          far longer than the clip norm                                8
    0-d parameter     the same, all of it in a tensor without axes                 8
    integer buffer    the same, in an integer counter (such as batches seen)       8
    NaN update        NaN in one coordinate                                        6
    zero update       exactly zero                                                 6
    empty cohort      the only one of its cohort; the other cohort is empty        7
    skewed weights    claims a thousand times as many examples as the others       5
    drawn twice       counted twice, as under sampling with replacement            3
    dropout           one of only two that arrive, of all that were drawn          5

In the other cohort of a pair the unit contributes a millionth of the clip norm (the empty cohort
aside). A mechanism hides the content of a contribution, so both cohorts must look alike.
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
    6: "whether there is a release must not depend on a contribution",
    7: "an empty sample is a normal round: noise is added, and charged",
    8: "the stated sensitivity must hold for every contribution",
}

Pair = tuple[Cohort, Cohort]
_SHAPES = {"body.weight": (6, 4), "body.bias": (6,)}
_LONG, _SHORT = 1e4, 1e-6  # in clip norms
_SAFE = "noise in proportion to the unit's influence"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pair of neighbouring cohorts, and what must hold for both.

    name: a few words. rule: the number of the rule that a failure breaks.
    expected: the correct behaviour.
    neighbours: subject -> two cohorts that differ in one unit; noise is measured on the first.
    refusable: whether refusing both cohorts, or releasing neither, also passes.
    local: whether it applies to subjects whose units add their own noise.
    weighted: whether it is about weights; examples have none.
    """

    name: str
    rule: int
    expected: str
    neighbours: Callable[[Subject], Pair]
    refusable: bool = False
    local: bool = True
    weighted: bool = False

    def applies_to(self, subject: Subject) -> bool:
        """Whether the case is meaningful for a subject."""
        return (self.local or not subject.local) and (not self.weighted or subject.unit == "client")


def _zeros(extra: Arrays) -> Arrays:
    floats = {name: np.zeros(shape, dtype=np.float32) for name, shape in _SHAPES.items()}
    return floats | {name: np.zeros_like(array) for name, array in extra.items()}


def _constant_update(length: float) -> dict[str, NDArray[Any]]:
    """An update of this norm, with the same value in every coordinate."""
    size = sum(int(np.prod(shape)) for shape in _SHAPES.values())
    each = length / size**0.5
    return {name: np.full(shape, each, dtype=np.float32) for name, shape in _SHAPES.items()}


def _others(subject: Subject, count: int, extra: Arrays) -> tuple[Contribution, ...]:
    """Units 1 to `count`, each with a tenth of the clip norm in its own random direction."""
    contributions = []
    for unit in range(1, count + 1):
        drawn = np.random.default_rng(unit)
        update = {name: drawn.standard_normal(shape) for name, shape in _SHAPES.items()}
        length = sum(float((array**2).sum()) for array in update.values()) ** 0.5
        scale = 0.1 * subject.clip_norm / length
        floats = {name: (scale * array).astype(np.float32) for name, array in update.items()}
        zeros = {name: np.zeros_like(array) for name, array in extra.items()}
        contributions.append(Contribution(unit=unit, update=floats | zeros))
    return tuple(contributions)


def _pair(
    subject: Subject,
    extreme: Arrays,
    *,
    others: int | None = None,
    times: int = 1,
    examples: int = 1,
) -> Pair:
    """Two cohorts of the same others: unit 0 contributes `extreme` in one, a tiny update in one."""
    extra = {name: array for name, array in extreme.items() if name not in _SHAPES}
    rest = _others(subject, subject.cohort - times if others is None else others, extra)
    tiny = _constant_update(_SHORT * subject.clip_norm) | {
        n: np.zeros_like(a) for n, a in extra.items()
    }

    def cohort_with(update: Arrays) -> Cohort:
        own = (Contribution(unit=0, update=update, examples=examples),) * times
        return Cohort(like=_zeros(extra), contributions=own + rest, drawn=subject.cohort)

    return cohort_with(extreme), cohort_with(tiny)


def _ordinary(subject: Subject) -> Pair:
    return _pair(subject, _constant_update(_LONG * subject.clip_norm))


def _without_axes(subject: Subject) -> Pair:
    tiny = _constant_update(_SHORT * subject.clip_norm)
    return _pair(subject, tiny | {"scale": np.array(_LONG * subject.clip_norm, dtype=np.float32)})


def _integer_buffer(subject: Subject) -> Pair:
    batches = np.full(2, max(1000, int(_LONG * subject.clip_norm)), dtype=np.int64)
    return _pair(subject, _constant_update(_SHORT * subject.clip_norm) | {"batches": batches})


def _not_finite(subject: Subject) -> Pair:
    update = _constant_update(0.5 * subject.clip_norm)
    update["body.bias"][0] = np.nan
    return _pair(subject, update)


def _zero(subject: Subject) -> Pair:
    return _pair(subject, _constant_update(0.0))


def _empty(subject: Subject) -> Pair:
    (first, *_), like = _ordinary(subject)[0].contributions, _zeros({})
    empty = Cohort(like=like, contributions=(), drawn=0)
    return empty, Cohort(like=like, contributions=(first,), drawn=1)


def _skewed(subject: Subject) -> Pair:
    return _pair(subject, _constant_update(_LONG * subject.clip_norm), examples=1000)


def _twice(subject: Subject) -> Pair:
    return _pair(subject, _constant_update(_LONG * subject.clip_norm), times=2)


def _dropout(subject: Subject) -> Pair:
    return _pair(subject, _constant_update(_LONG * subject.clip_norm), others=1)


CASES = (
    Case(name="ordinary", rule=8, expected=_SAFE, neighbours=_ordinary),
    Case(name="0-d parameter", rule=8, expected=_SAFE, neighbours=_without_axes),
    Case(
        name="integer buffer",
        rule=8,
        refusable=True,
        neighbours=_integer_buffer,
        expected=f"a refusal that does not depend on its content, or {_SAFE}",
    ),
    Case(
        name="NaN update",
        rule=6,
        neighbours=_not_finite,
        expected="the same release as if the unit had contributed zero",
    ),
    Case(
        name="zero update",
        rule=6,
        neighbours=_zero,
        expected="a release, as for any other contribution",
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
