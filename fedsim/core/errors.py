"""Errors of users, all worded alike, and checks that raise them.

    <who>: <name> must be <rule>; got <value>. <what to do>.

`InputError` is a user's mistake and ends a command with exit code 2 and one line. Any other
exception is a bug in fedsim or in a script. Each check raises `InputError`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real


class InputError(ValueError):
    """A user gave a wrong value; the message says what to give instead."""


class PrivacyError(InputError):
    """Continuing would void a privacy guarantee."""


def refusal(who: str, name: str, rule: str, value: object, remedy: str) -> InputError:
    """The error for a wrong value of `name`, worded as above (returned, not raised)."""
    return InputError(f"{who}: {name} must be {rule}; got {value!r}. {remedy}")


def positive(who: str, remedy: str, **values: float) -> None:
    """Refuse every value that is not a finite number above zero."""
    for name, value in values.items():
        _number(who, name, value, Real)
        if not (math.isfinite(value) and value > 0):
            raise refusal(who, name, "> 0", value, remedy)


def non_negative(who: str, remedy: str, **values: float) -> None:
    """Refuse every value that is not a finite number of zero or more."""
    for name, value in values.items():
        _number(who, name, value, Real)
        if not (math.isfinite(value) and value >= 0):
            raise refusal(who, name, ">= 0", value, remedy)


def in_unit_interval(who: str, remedy: str, **values: float) -> None:
    """Refuse every value outside [0, 1)."""
    for name, value in values.items():
        _number(who, name, value, Real)
        if not 0 <= value < 1:
            raise refusal(who, name, "in [0, 1)", value, remedy)


def at_least(who: str, least: int, remedy: str, **values: int) -> None:
    """Refuse every whole number below `least`."""
    for name, value in values.items():
        _number(who, name, value, Integral)
        if value < least:
            raise refusal(who, name, f"at least {least}", value, remedy)


def _number(who: str, name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        rule = "a whole number" if kind is Integral else "a number"
        raise refusal(who, name, rule, value, f"Give {rule}, without quotes.")


def unknown(who: str, kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for an unknown name, with the nearest known names (returned, not raised)."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(options)}."
    return InputError(f"{who}: {kind} must be a known name; got {name!r}. {hint}")
