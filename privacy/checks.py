"""What mechanisms refuse, in one line, before anything is trained."""

from __future__ import annotations

import math

from fedsim.types import Scenario
from fedsim.validate import PrivacyError


def noise(who: str, noise_multiplier: float) -> None:
    """Refuse a noise multiplier that is not a finite number above 0.

    Raises:
        PrivacyError: it is not; without noise there is no budget to speak of.
    """
    _above_zero(who, "noise_multiplier", noise_multiplier, "Without noise use none().")


def length(who: str, **values: float) -> None:
    """Refuse a clip norm, or anything like it, that is not a finite number above 0.

    Raises:
        PrivacyError: one is not.
    """
    for name, value in values.items():
        _above_zero(who, name, value, "Use 1.")


def failure(who: str, delta: float) -> None:
    """Refuse a delta that is not in (0, 1).

    Raises:
        PrivacyError: it is not.
    """
    if not 0 < delta < 1:
        raise PrivacyError(f"{who}: delta must be in (0, 1); got {delta}. Use 1e-5.")


def public(who: str, scenario: Scenario) -> str | None:
    """Why what is left of a scenario beside the mechanism leaks, or None.

    Nobody may choose clients or examples by what the data say: no mechanism pays for that.
    """
    for name, part in (("selection", scenario.selection), ("plan", scenario.plan)):
        if part.sampling.kind == "chosen" and not (who_is_client(who) and name == "plan"):
            return (
                f"{who}: {name} must not look at the data; got {part.name}, which goes "
                f"{part.sampling.words}. Use one that draws at random."
            )
    return None


def who_is_client(who: str) -> bool:
    """Whether a mechanism protects whole clients: what they do with their own data is their own."""
    return who in ("client_dp", "local_dp", "correlated_noise")


def _above_zero(who: str, name: str, value: float, remedy: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise PrivacyError(f"{who}: {name} must be > 0; got {value}. {remedy}")
