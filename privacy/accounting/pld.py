"""Composition by privacy loss distributions: dp-accounting's, on a grid that we choose.

The grid.  Rounding a loss to a grid of width h by "connect the dots" adds h^2 / 12 to the variance
of one step's loss, so epsilon grows by the relative error h^2 / (12 s^2), where s is the standard
deviation of that loss, about q sqrt(e^(1/z^2) - 1).  Against that, time and memory grow with the
reach of the losses over h.  Every grid rounds to the safe side.

Source
    Doroshenko, Ghazi, Kamath, Kumar, Manurangsi (2022), arXiv:2207.04380;
    Koskela, Jalko, Honkela (2020), arXiv:1906.03049.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from privacy.accounting import rdp
from privacy.accounting.events import Gaussian, PoissonGaussian, PoissonReplace, TruncatedPoisson
from privacy.accounting.merge import single

Sampled = PoissonGaussian | TruncatedPoisson | PoissonReplace
Plan = tuple[Gaussian | Sampled, ...]
Search = Callable[[Plan, float], tuple[float, float]]

FINE, COARSE, FINEST = 1e-4, 1e-3, 1e-6
_FAR = 600.0  # e^600 is near the largest float; no such epsilon is worth the wait
_MOST = 2_000_000  # steps; the library takes a power of integers that beyond takes for ever


def within_reach(plan: Plan) -> bool:
    """Whether a grid can hold the losses: one too large is not worth its time, or overflows."""
    if max(event.count for event in plan) > _MOST:
        return False
    return max(_step_reach(plan), _total_reach(plan)) < _FAR


def slack(plan: Plan) -> float:
    """Rounding error of delta in Fourier transforms, at most; it is added to delta."""
    return 1e-14 + 1e-17 * sum(event.count for event in plan)


def fine(plan: Plan, delta: float) -> tuple[float, float]:
    """Epsilon and the grid it was found on; the grid is 1e-4 unless the reach or epsilon ask.

    At a delta near rounding a coarse grid has less noise, so the counter's is tried, too: this is
    never above `quick`.
    """
    return min(_settled(plan, delta, fine_grid(plan), enough=2000), quick(plan, delta))


def fine_grid(plan: Plan) -> float:
    """The grid to begin with when there is time."""
    return max(FINE, _step_reach(plan) / 4e5, _total_reach(plan) / 4e6)


def quick(plan: Plan, delta: float) -> tuple[float, float]:
    """Epsilon within 0.5 % of `fine`, on a grid that a counter can afford every round."""
    steps = sum(event.count for event in plan)
    spread = math.sqrt(sum(event.count * _spread(event) ** 2 for event in plan) / steps)
    grid = min(COARSE, max(FINEST, spread * math.sqrt(12 * 1e-3)))
    # Powers of two apart, so that a count that grows finds the single step where it was.
    grid = COARSE * 2 ** math.floor(math.log2(grid / COARSE))
    least = max(_step_reach(plan) / 4e4, _total_reach(plan) / 4e5)
    grid *= 2 ** max(0, math.ceil(math.log2(max(least, FINEST) / grid)))
    return _settled(plan, delta, grid, enough=100)


def _settled(plan: Plan, delta: float, grid: float, enough: float) -> tuple[float, float]:
    """Epsilon with the grid halved while it is below `enough` grids and still moves by 0.5 %."""
    found = _epsilon(plan, grid, delta)
    while 0 < found < enough * grid and grid / 2 > max(FINEST, _step_reach(plan) / 4e5):
        finer = _epsilon(plan, grid / 2, delta)
        settled = found - finer < 0.005 * found
        found, grid = min(found, finer), grid / 2
        if settled:
            break
    return found, grid


@lru_cache(maxsize=4)
def composed(plan: Plan, grid: float) -> Any:
    """dp-accounting's privacy loss distribution of the whole plan."""
    total = None
    for event in plan:
        if isinstance(event, Gaussian):
            part = _one(replace(event, mu=event.mu * math.sqrt(event.count), count=1), grid)
        else:
            part = _one(single(event), grid).self_compose(event.count)
        total = part if total is None else total.compose(part)
    return total


def _epsilon(plan: Plan, grid: float, delta: float) -> float:
    return float(composed(plan, grid).get_epsilon_for_delta(delta))


@lru_cache(maxsize=16)
def _one(event: Gaussian | Sampled, grid: float) -> Any:
    """The privacy loss distribution of one step."""
    from dp_accounting import NeighboringRelation as Relation
    from dp_accounting.pld import privacy_loss_distribution as pld

    if isinstance(event, Gaussian):
        return pld.from_gaussian_mechanism(1 / event.mu, value_discretization_interval=grid)
    if isinstance(event, TruncatedPoisson):
        return pld.from_truncated_subsampled_gaussian_mechanism(
            event.population,
            event.sampling_prob,
            event.cap,
            event.noise_multiplier,
            value_discretization_interval=grid,
            neighboring_relation=Relation.REPLACE_SPECIAL,
        )
    replaces = isinstance(event, PoissonReplace)
    return pld.from_gaussian_mechanism(
        event.noise_multiplier,
        value_discretization_interval=grid,
        sampling_prob=event.sampling_prob,
        # For REPLACE_ONE this accountant doubles the sensitivity by itself.
        neighboring_relation=Relation.REPLACE_ONE if replaces else Relation.REPLACE_SPECIAL,
    )


def _bound(event: Gaussian | Sampled) -> Gaussian | PoissonGaussian:
    """An event with a Renyi divergence whose losses are at least about as large: an estimate."""
    if isinstance(event, Gaussian | PoissonGaussian):
        return event
    return PoissonGaussian(
        sampling_prob=event.sampling_prob,
        noise_multiplier=event.noise_multiplier / 2,
        count=event.count,
    )


def _step_reach(plan: Sequence[Gaussian | Sampled]) -> float:
    """About the largest loss of one step but for a mass of e^-50, ten standard deviations out."""
    reach = 0.0
    for event in map(_bound, plan):
        if isinstance(event, Gaussian):
            mu, q = event.mu * math.sqrt(event.count), 1.0
        else:
            mu, q = 1 / event.noise_multiplier, event.sampling_prob
        log_ratio = math.log(q) + 10 * mu + mu * mu / 2
        reach = max(reach, log_ratio)
    return reach


def _total_reach(plan: Sequence[Gaussian | Sampled]) -> float:
    """About the largest loss of all steps together, but for a mass of 1e-15."""
    total = rdp.rdp([_bound(event) for event in plan])
    assert total is not None
    return rdp.epsilon_from_rdp(total, 1e-15)


def _spread(event: Gaussian | Sampled) -> float:
    """About the standard deviation of one step's loss."""
    if isinstance(event, Gaussian):
        return event.mu
    exponent = min(event.noise_multiplier**-2, 100.0)
    return event.sampling_prob * math.sqrt(math.expm1(exponent))
