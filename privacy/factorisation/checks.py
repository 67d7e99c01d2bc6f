"""Refusals of this package, in the one error grammar of `fedsim.validate`."""

from __future__ import annotations

from fedsim.validate import PrivacyError, complain


def refusal(who: str, name: str, rule: str, value: object, remedy: str) -> PrivacyError:
    """The error for a value under which the stated guarantee would not hold (returned)."""
    return PrivacyError(str(complain(who, name, rule, value, remedy)))


def whole(
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
