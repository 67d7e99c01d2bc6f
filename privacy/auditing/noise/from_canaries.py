"""Noise measured along canary directions, as input to the step test and the round test.

In units of the clip norm C, an observation is what the canary sent, plus what others sent into its
direction, plus z N(0, 1).  Correlated noise is made white first: M y = M x + z Z for the strategy M
over time, y what was seen and x what was sent.

Notation  z what the noise on the sum is over C, T rounds
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from privacy.auditing.noise.round_test import Quiet, quiet
from privacy.auditing.noise.step_test import Wiring, in_time, shift, wiring
from privacy.auditing.run.canary_record import Record
from privacy.mechanisms.entry_reader import AuditModel
from privacy.validate import Array

ALPHA = 0.001  # there are so many observations that a fault still shows
_MOST = 10_000  # observations of a kind; more make an audit slow and no clearer
_APART = 20  # of one round, no more than d / 20: more would measure the same noise


def wired(record: Record, model: AuditModel) -> tuple[Wiring, ...]:
    """Whether canaries stand out of the noise as far as was charged for; () where few can tell."""
    if record.of_examples:
        return _checked(*_probed(record, model)) if record.probe is not None else ()
    matrix = model.strategy(record.rounds)
    if matrix is not None:
        return _checked(*_whitened(record, model, matrix), max(1, record.dims // _APART))
    asked, coins, seen = record.asked, record.included[None, :], _own(record)
    added, most = _overlaps(record, model, None), float(_MOST)
    if not model.each_update:  # there each has noise of its own
        most = record.rounds * max(1, record.dims // _APART)
    if added:  # what they add is the same whenever the same ones are asked: no new observation
        most = min(most, record.canaries * model.noise**2 / (4 * added))
    z = math.sqrt(model.noise**2 + added)
    if record.opposed:
        return _checked(seen[asked & coins], seen[asked & ~coins], z / 2, most)
    there = asked & coins
    return _checked(seen[there], seen[~there], z, most)


def missing(record: Record, model: AuditModel) -> Quiet | None:
    """Whether all rounds, or steps, had their noise; None where canaries do not see it."""
    if record.of_examples:
        return _probed_noise(record, model)
    matrix = model.strategy(record.rounds)
    left = _own(record) - record.sent
    if matrix is not None:
        still = ~left.any(axis=1)
        left = matrix @ left
        left[still] = 0.0
    return quiet(
        left,
        noise_multiplier=model.noise,
        dims=None if model.each_update else record.dims,
        overlaps=_overlaps(record, model, matrix),
        alpha=ALPHA,
    )


def _probed_noise(record: Record, model: AuditModel) -> Quiet | None:
    """Single steps in which no client took part: there is only noise in them."""
    if record.probe is None or not model.sums_in_steps:
        return None  # a batch that is clipped as one is no sum
    left = record.probe[1].T
    matrix = model.strategy(len(left))
    left = left[:1] if matrix is None else matrix @ left  # a clip norm that follows moves later
    found = quiet(left, noise_multiplier=model.noise, dims=None, alpha=ALPHA)
    return None if found is None else replace(found, of="steps")


def _own(record: Record) -> Array:
    """What was seen [T, M], without other canaries where they are known."""
    return record.seen if record.overlaps is None else record.seen - record.overlaps


def _overlaps(record: Record, model: AuditModel, matrix: Array | None) -> float:
    """The variance that others add to an observation: random directions meet with N(0, 1 / d)."""
    if record.overlaps is not None or model.each_update:
        return 0.0
    sent = record.sent if matrix is None else matrix @ record.sent
    return float((sent**2).sum(axis=1).mean()) / record.dims


def _probed(record: Record, model: AuditModel) -> tuple[Array, Array, float]:
    """Single steps: with a canary in the first of n, and without."""
    assert record.probe is not None
    inside, outside = record.probe
    z, steps = model.noise, inside.shape[1]
    matrix = model.strategy(steps)
    if matrix is None:
        return inside[:, 0], outside[:, 0], z  # the canary is in the first step alone
    there, bare = (in_time(matrix, one, (0,)) for one in (inside, outside))
    return there, bare, z / shift(matrix, (0,)).value


def _whitened(record: Record, model: AuditModel, matrix: Array) -> tuple[Array, Array, float]:
    """Each canary along the way in which it shows most at the times at which it was asked.

    How far that is differs a little with the times: what is expected beyond the mean is taken off.
    """
    ways = matrix @ record.asked
    lengths = np.linalg.norm(ways, axis=0)
    there = lengths > 0
    if not there.any():
        return np.empty(0), np.empty(0), 1.0
    along, coins = ways[:, there] / lengths[there], record.included[there]
    typical = float(lengths[there].mean())
    seen = (along * (matrix @ _own(record))[:, there]).sum(axis=0)
    seen = seen - np.where(coins, lengths[there] - typical, 0.0)
    added = 0.0
    if record.overlaps is None:
        from_others = along.T @ (matrix @ record.sent)
        added = float((from_others**2).sum(axis=1).mean()) / record.dims
    z = math.sqrt(model.noise**2 + added)
    return seen[coins], seen[~coins], z / typical


def _checked(
    inside: Array, outside: Array, claimed: float, most: float = _MOST
) -> tuple[Wiring, ...]:
    """What so many observations say, at most, each kind by its share."""
    share = min(1.0, most / max(1, len(inside) + len(outside)))
    there, bare = (_thin(one, int(share * len(one))) for one in (inside, outside))
    few, many = sorted((len(there), len(bare)))
    if few < 2 or many < 3 or not (np.ptp(there) > 0 or np.ptp(bare) > 0):
        return ()
    return (wiring(there, bare, noise_multiplier=claimed, alpha=ALPHA),)


def _thin(values: Array, most: int) -> Array:
    """So many of them, taken evenly."""
    most = min(most, _MOST)
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).astype(np.int64)]
