"""How much noise a promise needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy.optimize import brentq

from privacy import validate
from privacy.accounting.composition import account
from privacy.accounting.composition import epsilon as quick_epsilon
from privacy.accounting.events import Event
from privacy.accounting.merge import merged

_DIGITS = 4
_LEAST, _MOST = 2.0**-6, 2.0**20


def calibrate(
    events_of_noise: Callable[[float], Sequence[Event]], epsilon: float, delta: float
) -> float:
    """The smallest noise multiplier, to four digits and rounded up, that keeps a promise.

    Args:
        events_of_noise: the whole run's events for a noise multiplier; more noise must not leak
            more.
        epsilon: what may be spent, > 0.
        delta: failure probability of the promise, in (0, 1).

    Raises:
        PrivacyError: a value is out of its range; or no noise is enough, or none is needed.

    Guarantees:
        account(events_of_noise(z), delta).epsilon is at most epsilon.
    """
    validate.epsilon("calibrate", epsilon)
    validate.delta("calibrate", delta)
    if epsilon == 0:
        raise validate.refusal("calibrate", "epsilon", "> 0", epsilon, "Use 1.0.")
    if not merged("calibrate", events_of_noise(1.0)):
        remedy = "Plan at least one round in which someone takes part."
        raise validate.refusal("calibrate", "events", "something released", "nothing", remedy)

    def excess(log_noise: float) -> float:
        spent = quick_epsilon(events_of_noise(math.exp(log_noise)), delta)
        if spent is None:
            raise _unattainable(epsilon, delta)
        return math.log(min(max(spent, 1e-12), 1e12) / epsilon)

    low = high = 1.0
    while high < _MOST and excess(math.log(high)) > 0:
        low, high = high, high * 2
    while low > _LEAST and excess(math.log(low)) <= 0:
        low, high = low / 2, low
    near = high
    if excess(math.log(high)) > 0:
        raise _unattainable(epsilon, delta)
    if excess(math.log(low)) > 0:
        near = math.exp(brentq(excess, math.log(low), math.log(high), xtol=1e-6, rtol=1e-12))
    return _checked(lambda z: account(events_of_noise(z), delta).epsilon, near, epsilon)


def _checked(spent: Callable[[float], float | None], near: float, epsilon: float) -> float:
    """The first number of few digits that is enough, found from one nearby."""
    unit = 10.0 ** (math.floor(math.log10(near)) + 1 - _DIGITS)
    digits = -round(math.log10(unit))

    def enough(steps: int) -> bool:
        found = spent(round(steps * unit, digits))
        return found is not None and found <= epsilon

    # Gallop from the quick answer, which is a little too high, to both sides of the exact one.
    low, high, stride = math.ceil(near / unit) - 1, math.ceil(near / unit), 1
    while not enough(high):
        low, high, stride = high, high + stride, 2 * stride
    while low > 0 and enough(low):
        low, high, stride = max(low - stride, 0), low, 2 * stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return round(high * unit, digits)


def _unattainable(epsilon: float, delta: float) -> Exception:
    rule = f"attainable at delta={delta:g} with some noise"
    return validate.refusal("calibrate", "epsilon", rule, epsilon, "Allow more, or plan less.")
