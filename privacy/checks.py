"""Refusals: what no mechanism and no accountant may be asked, in one line and before any work.

Libraries answer some of these with 0, with a negative number, or not at all; a number that looks
like privacy and is none is the worst answer there is. Each function but `refusal` and `public`
raises PrivacyError.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedsim.validate import PrivacyError

if TYPE_CHECKING:
    from fedsim.types import Scenario


def refusal(who: str, name: str, rule: str, value: object, remedy: str) -> PrivacyError:
    """The error for `name`, in the grammar of every error (returned, not raised)."""
    return PrivacyError(f"{who}: {name} must be {rule}; got {value!r}. {remedy}")


def is_number(value: object) -> bool:
    """Whether `value` is a real number that compares; a bool, a text and NaN are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def delta(who: str, value: float) -> None:
    """Refuse a failure probability outside (0, 1)."""
    if not (is_number(value) and 0 < value < 1):
        raise refusal(who, "delta", "in (0, 1)", value, "Use 1e-5, or 1 / population.")


def epsilon(who: str, value: float) -> None:
    """Refuse an epsilon that is no finite number of zero or more."""
    if not (is_number(value) and 0 <= value < math.inf):
        raise refusal(who, "epsilon", "a finite number >= 0", value, "Use 1.0.")


def probability(who: str, name: str, value: float) -> None:
    """Refuse what is outside [0, 1]."""
    if not (is_number(value) and 0 <= value <= 1):
        raise refusal(who, name, "in [0, 1]", value, "Use cohort / population.")


def noise(who: str, value: float, *, zero_allowed: bool = True) -> None:
    """Refuse a noise multiplier that is negative, infinite or no number."""
    if not (is_number(value) and 0 <= value < math.inf and (zero_allowed or value > 0)):
        rule = "a finite number " + (">= 0" if zero_allowed else "> 0")
        raise refusal(who, "noise_multiplier", rule, value, "Use 1.0.")


def whole(who: str, name: str, value: object, least: int = 0) -> None:
    """Refuse what is no whole number of at least `least`; True and 3.0 are none."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        remedy = f"Use {max(least, 1)}."
        raise refusal(who, name, f"a whole number >= {least}", value, remedy)


def at_most(who: str, name: str, value: int, most: int, what: str) -> None:
    """Refuse a whole number above `most`."""
    if value > most:
        raise refusal(who, name, f"at most the {what}, {most}", value, f"Use {most}.")


def length(who: str, **values: float) -> None:
    """Refuse a clip norm, or anything like it, that is not a finite number above 0."""
    for name, value in values.items():
        if not (is_number(value) and 0 < value < math.inf):
            raise refusal(who, name, "> 0", value, "Use 1.")


def public(who: str, scenario: Scenario) -> str | None:
    """Why what is left of a scenario beside the mechanism leaks, or None.

    Nobody may choose clients or examples by what the data say: no mechanism pays for that. Where
    whole clients are protected, what they do with their own data is their own.
    """
    own_data = scenario.mechanism.unit == "client"
    for name, part in (("selection", scenario.selection), ("plan", scenario.plan)):
        if part.sampling.kind == "chosen" and not (own_data and name == "plan"):
            return (
                f"{who}: {name} must not look at the data; got {part.name}, which goes "
                f"{part.sampling.words}. Use one that draws at random."
            )
    return None
