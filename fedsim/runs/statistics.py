"""Statistics over seeds: means with 95 % intervals, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with the half width of its 95 % interval over seeds (None with one seed)."""

    mean: float
    half: float | None

    def text(self, scale: float = 1, digits: int = 2) -> str:
        """As people write it: `81.20 +/- 0.35`."""
        shown = f"{self.mean * scale:.{digits}f}"
        return shown if self.half is None else f"{shown} +/- {self.half * scale:.{digits}f}"


def interval(values: Sequence[float]) -> Interval:
    """The mean of `values` and its 95 % Student-t interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean=mean, half=None)
    from scipy.special import stdtrit  # a single run needs no quantile

    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Interval(mean=mean, half=float(stdtrit(len(values) - 1, 0.975)) * error)


def paired_difference(results: Mapping[int, float], base: Mapping[int, float]) -> Interval | None:
    """The mean of `results - base` over the seeds that both have; None without such a seed."""
    shared = sorted(results.keys() & base.keys())
    return interval([results[seed] - base[seed] for seed in shared]) if shared else None


def epsilon_text(value: float | None) -> str:
    """An epsilon as people read it, rounded up."""
    if value is None:
        return ""
    return f"{math.ceil(1000 * value) / 1000:g}" if math.isfinite(value) else "no guarantee"
