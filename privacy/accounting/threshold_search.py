"""The best of many tests: a function of a threshold, maximised."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

Array = NDArray[np.float64]


def largest(value: Callable[[Array], Array], low: float, high: float) -> float:
    """About the largest value in [low, high], from below: on a grid, then around its best place.

    Every threshold is a valid test, so none that is looked at is too many.
    """
    grid = np.linspace(low, high, 2001)
    i = int(np.argmax(value(grid)))
    found = minimize_scalar(
        lambda c: -float(value(np.asarray(c))),
        bounds=(grid[max(i - 1, 0)], grid[min(i + 1, 2000)]),
        method="bounded",
        options={"xatol": 1e-12},
    )
    return max(float(value(grid[i])), -float(found.fun))
