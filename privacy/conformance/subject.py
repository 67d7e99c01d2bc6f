"""The aggregation under test: a function from contributions to a release, and its claims."""

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
    """One contribution of one unit. examples: how many examples it claims to have."""

    unit: int
    update: Arrays
    examples: int = 1


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The input of one release.

    like: the model, all zeros: names, shapes and types.
    contributions: those that arrived, in this order; () for an empty cohort.
    drawn: how many units were sampled, including those whose contribution did not arrive.
    """

    like: Arrays
    contributions: tuple[Contribution, ...]
    drawn: int

    @property
    def has_duplicates(self) -> bool:
        """Whether a unit was drawn more than once."""
        return len({c.unit for c in self.contributions}) < len(self.contributions)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A private aggregation, and the guarantees it claims.

    Attributes:
        name: for the findings.
        release: cohort -> the release, with fresh noise at every call; None if there is none.
        clip_norm: the bound on the norm of a contribution.
        noise_multiplier: noise_std over the sensitivity.
        cohort: the public cohort size that a release is scaled for; at least 3.
        unit: what is protected.
        local: whether every unit adds noise to its own contribution; an empty cohort then has none.

    Raises:
        PrivacyError: a number is out of its range. The noise multiplier is at most 0.05, so that
            the effect of a contribution stands out from the noise; the scale of the noise is
            measured separately.
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
