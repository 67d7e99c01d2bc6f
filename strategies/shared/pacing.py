"""Pacing functions: how much of a curriculum is open after s of T steps.

Source: Wu, Dyer, Neyshabur. "When Do Curricula Work?". ICLR 2021. arXiv:2012.03107, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from fedsim.core.errors import InputError, refusal

Order = Literal["curriculum", "anti", "random"]  # easiest first, easiest last, or a control
Pacing = Literal["linear", "quad", "root", "step", "exp", "log"]

_SHAPES: dict[Pacing, Callable[[float], float]] = {  # of z = s / (a T) in [0, 1), from 0 to 1
    "linear": lambda z: z,
    "quad": lambda z: z**2,
    "root": math.sqrt,
    "step": math.floor,
    "exp": lambda z: math.expm1(10 * z) / math.expm1(10),
    "log": lambda z: 1 + 0.1 * math.log(z + math.exp(-10)),
}


def pace(who: str, pacing: Pacing, full_at: float, start: float) -> Callable[[int, int, int], int]:
    """Make a function (s, N, T) -> how many of N are open after s of T steps; from 1 to N.

    Args:
        who: the caller, for error messages.
        pacing: the shape between start and all.
        full_at: a, the part of T after which all are, in (0, 1].
        start: b, the part of N that is open at first, in [0, 1].

    Raises:
        InputError: a value is out of its range.

    Guarantees:
        It never falls, and is N from s = a T on.
        At the same a and b, log is never below root, nor root below linear, quad, exp in turn.
    """
    if pacing not in _SHAPES:
        raise refusal(who, "pacing", f"one of {', '.join(_SHAPES)}", pacing, "Pick one.")
    if not 0 < full_at <= 1:
        raise InputError(f"{who}: full_at must be in (0, 1]; got {full_at}. Use 0.8.")
    if not 0 <= start <= 1:
        raise InputError(f"{who}: start must be in [0, 1]; got {start}. Use 0.2.")

    def opened(s: int, n: int, t: int) -> int:
        z = s / (full_at * t)
        if z >= 1:
            return n
        return min(n, max(1, int(start * n + (1 - start) * n * _SHAPES[pacing](z))))

    return opened
