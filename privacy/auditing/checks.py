"""What no audit accepts: a number that looks like a bound and is none is worse than an error."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from privacy.checks import is_number, refusal, whole

Array = NDArray[np.float64]

__all__ = ["Array", "failure", "finite", "is_number", "level", "refusal", "same_length", "whole"]


def failure(who: str, delta: float) -> None:
    """Refuse a failure probability outside [0, 1); 0 is pure differential privacy."""
    if not (is_number(delta) and 0 <= delta < 1):
        raise refusal(who, "delta", "in [0, 1)", delta, "Use the delta of the claim.")


def level(who: str, alpha: float) -> None:
    """Refuse an error probability outside (0, 1)."""
    if not (is_number(alpha) and 0 < alpha < 1):
        raise refusal(who, "alpha", "in (0, 1)", alpha, "Use 0.05, for 95 % confidence.")


def finite(who: str, name: str, values: ArrayLike, *, least: int = 1) -> Array:
    """The values as a vector of at least `least` finite numbers; refuses anything else."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) < least:
        rule = f"a vector of at least {least}"
        raise refusal(who, name, rule, found.shape, "Make more observations.")
    if not np.isfinite(found).all():
        bad = found[~np.isfinite(found)][0]
        raise refusal(who, name, "finite", float(bad), "Find out where it came from.")
    return found


def same_length(who: str, name: str, values: ArrayLike, of: ArrayLike) -> None:
    """Refuse what has not one value for each of the others."""
    if len(np.asarray(values)) != len(np.asarray(of)):
        rule = f"as many as there are canaries, {len(np.asarray(of))}"
        raise refusal(who, name, rule, len(np.asarray(values)), "Pass one for each.")
