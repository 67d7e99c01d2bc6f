"""Validation of the arguments of mechanisms and accountants, before any work.

For some invalid arguments libraries return 0 or a negative epsilon, or do not return. The worst
result is a number that looks like a guarantee and is none. Each function but `refusal` and `public`
raises PrivacyError.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedsim.core.errors import PrivacyError

if TYPE_CHECKING:
    from fedsim.core.scenario import Scenario

Array = NDArray[np.float64]


def refusal(who: str, name: str, rule: str, value: object, remedy: str) -> PrivacyError:
    """The error for `name`, in the grammar of every error (returned, not raised)."""
    return PrivacyError(f"{who}: {name} must be {rule}; got {value!r}. {remedy}")


def is_number(value: object) -> bool:
    """Whether `value` is a real number that compares; a bool, a string and NaN are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def delta(who: str, value: float) -> None:
    """Refuse a failure probability outside (0, 1)."""
    if not (is_number(value) and 0 < value < 1):
        raise refusal(who, "delta", "in (0, 1)", value, "Use 1e-5, or 1 / population.")


def epsilon(who: str, value: float) -> None:
    """Refuse an epsilon that is not a finite number >= 0."""
    if not (is_number(value) and 0 <= value < math.inf):
        raise refusal(who, "epsilon", "a finite number >= 0", value, "Use 1.0.")


def probability(who: str, name: str, value: float) -> None:
    """Refuse a probability outside [0, 1]."""
    if not (is_number(value) and 0 <= value <= 1):
        raise refusal(who, name, "in [0, 1]", value, "Use cohort / population.")


def noise(who: str, value: float, *, zero_allowed: bool = True) -> None:
    """Refuse a noise multiplier that is negative, infinite or not a number."""
    if not (is_number(value) and 0 <= value < math.inf and (zero_allowed or value > 0)):
        rule = "a finite number " + (">= 0" if zero_allowed else "> 0")
        raise refusal(who, "noise_multiplier", rule, value, "Use 1.0.")


def whole(who: str, name: str, value: object, least: int = 0) -> None:
    """Refuse anything but an int of at least `least`; True and 3.0 are refused."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        remedy = f"Use {max(least, 1)}."
        raise refusal(who, name, f"a whole number >= {least}", value, remedy)


def at_most(who: str, name: str, value: int, most: int, what: str) -> None:
    """Refuse a whole number above `most`."""
    if value > most:
        raise refusal(who, name, f"at most the {what}, {most}", value, f"Use {most}.")


def length(who: str, **values: float) -> None:
    """Refuse a clip norm, or another length, that is not a finite number above 0."""
    for name, value in values.items():
        if not (is_number(value) and 0 < value < math.inf):
            raise refusal(who, name, "> 0", value, "Use 1.")


def public(who: str, scenario: Scenario, *, whole_clients: bool) -> str | None:
    """Why a part of a scenario other than the mechanism leaks, or None.

    No mechanism covers a choice of clients or examples that depends on the data.

    Args:
        who: the mechanism.
        scenario: of the run.
        whole_clients: clients are protected as a whole, so that the order in which one uses its own
            examples may depend on them.
    """
    for name, part in (("selection", scenario.selection), ("plan", scenario.plan)):
        allowed = whole_clients and name == "plan"
        if part.sampling.kind == "chosen" and not allowed:
            return (
                f"{who}: {name} must not look at the data; got {part.name}, which goes "
                f"{part.sampling.words}. Use one that draws at random."
            )
    return None


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
    """Refuse values that are not as many as those of `of`."""
    if len(np.asarray(values)) != len(np.asarray(of)):
        rule = f"as many as there are canaries, {len(np.asarray(of))}"
        raise refusal(who, name, rule, len(np.asarray(values)), "Pass one for each.")


def whole_numbers(
    who: str, remedy: str, *, from_: int = 1, up_to: int | None = None, **values: object
) -> None:
    """Refuse every value that is not an int within these bounds."""
    rule = f"a whole number of at least {from_}"
    rule += "" if up_to is None else f" and at most {up_to}"
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise refusal(who, name, rule, value, remedy)
        if value < from_ or (up_to is not None and value > up_to):
            raise refusal(who, name, rule, value, remedy)
