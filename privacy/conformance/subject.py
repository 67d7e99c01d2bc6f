"""What is examined: a function from what units contribute to what is released, and its claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privacy import validate

Arrays = Mapping[str, NDArray[Any]]
"""A model, or an update of one: name -> array, of any shape and type."""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one unit contributes once. examples: how many it says it has."""

    unit: int
    update: Arrays
    examples: int = 1


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """What a release is made of.

    like: the model, all zeros: names, shapes and types.
    contributions: what came, in this order; nobody's is the empty tuple.
    asked: how many units were drawn, whoever answered.
    """

    like: Arrays
    contributions: tuple[Contribution, ...]
    asked: int

    @property
    def twice(self) -> bool:
        """Whether a unit was drawn twice."""
        return len({c.unit for c in self.contributions}) < len(self.contributions)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A private aggregation, and what it claims.

    Attributes:
        name: for the findings.
        release: cohort -> what is released, with fresh noise at every call; None is nothing.
        clip_norm: how long a contribution may be.
        noise_multiplier: noise_std over how far one unit can move what is noised.
        cohort: how many units a release is made for, publicly; at least 3.
        unit: who is protected.
        local: whether every unit noises its own contribution, so that nobody owes noise where
            nobody came.

    Raises:
        PrivacyError: a number is out of its range.  The noise multiplier may be 0.05 at most: the
            unit's contribution is to be seen through the noise, whose scale is measured apart.
    """

    name: str
    release: Callable[[Cohort], Arrays | None]
    clip_norm: float
    noise_multiplier: float
    cohort: int = 5
    unit: Literal["client", "example"] = "client"
    local: bool = False

    def __post_init__(self) -> None:
        validate.whole("Subject", "cohort", self.cohort, 3)
        if not (validate.is_number(self.clip_norm) and 0 < self.clip_norm < np.inf):
            raise validate.refusal("Subject", "clip_norm", "> 0", self.clip_norm, "Use 1.0.")
        if not (validate.is_number(self.noise_multiplier) and 0 < self.noise_multiplier <= 0.05):
            rule, remedy = "in (0, 0.05]", "Make the subject with 0.01."
            raise validate.refusal(
                "Subject", "noise_multiplier", rule, self.noise_multiplier, remedy
            )
