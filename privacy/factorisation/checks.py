"""What no factorisation is made from."""

from __future__ import annotations

from privacy.checks import refusal

__all__ = ["refusal", "whole"]


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
