"""The contracts that every mechanism keeps.

Each check is one function whose docstring is the contract, word for word. It raises
`ContractError` where the contract is broken. In the world of `linear_world` a unit's data are what
it contributes; noise is the same in two runs of one seed, and so in no difference between them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedsim.core.scenario import Mechanism
from fedsim.testing.contracts import ContractError
from fedsim.testing.linear_world import (
    DIMS,
    Release,
    linear_world,
    random_unit,
    release_round,
)

_SEEDS = 40  # with DIMS numbers each: a standard error of 2 % of the noise
_LARGE = torch.where(torch.arange(DIMS) % 2 == 0, 1e30, -1e30)
_ONE_LAYER = torch.zeros(DIMS).index_fill(0, torch.arange(24), 1e15)
_ONE_NUMBER = torch.zeros(DIMS).index_fill(0, torch.tensor([DIMS - 1]), -1e15)
_ZERO = torch.zeros(DIMS)
_UNITS = (_LARGE, _ONE_LAYER, _ONE_NUMBER, *map(random_unit, range(6)))


class Subject(NamedTuple):
    """A mechanism, and how its ledger entries are in units of what it releases.

    clip_norm: that the sensitivity of its entries is in units of; 1 but where the clip norm moves.
    summed: whether its sensitivity is that of a sum, which is then divided by a public number.
    """

    mechanism: Mechanism[Any]
    clip_norm: float = 1.0
    summed: bool = True

    def release(self, units: Tensor, seed: int = 1) -> Release:
        """The first round of units with these contributions [n, d]."""
        return release_round(linear_world(self.mechanism, units, seed))

    def total(self, units: Tensor, seed: int = 1) -> Tensor:
        """What the first round released, as what the sensitivity is of [d]."""
        return self.release(units, seed).model * (len(units) if self.summed else 1)


def check_mechanism(
    mechanism: Mechanism[Any], *, clip_norm: float = 1.0, summed: bool = True
) -> None:
    """Put a mechanism through the whole battery.

    Args:
        mechanism: with a clip norm and a noise multiplier of ordinary size.
        clip_norm: that the sensitivity in its ledger entries is in units of; 1, but where the clip
            norm moves and sensitivities are stated over it.
        summed: whether its sensitivity is that of a sum over units, which is then divided by a
            public number of them.

    Raises:
        ContractError: it breaks a contract; the message is the contract.
    """
    for check in MECHANISM_CHECKS:
        check(Subject(mechanism, clip_norm, summed))


# --- the contracts -------------------------------------------------------------------------------


def respects_its_sensitivity(subject: Subject) -> None:
    """No unit moves a release by more than the sensitivity that the ledger states."""
    stated = subject.release(_ZERO[None]).entries[0].sensitivity * subject.clip_norm
    opposed = subject.mechanism.releases_each_update
    for others in ([], [random_unit(10), random_unit(11)]):
        for unit in _UNITS:
            instead = -unit if opposed else _ZERO
            first, second = (subject.total(torch.stack([*others, u])) for u in (unit, instead))
            moved = float((first - second).norm())
            _hold(moved <= stated * (1 + 1e-4), respects_its_sensitivity, subject)


def ignores_what_is_not_finite(subject: Subject) -> None:
    """A unit that is not finite contributes nothing, and is charged like any other."""
    others = [random_unit(12), random_unit(13)]
    zero = subject.release(torch.stack([*others, _ZERO]))
    for value in (torch.nan, torch.inf):
        bad = _ZERO.index_fill(0, torch.tensor([5]), value)
        found = subject.release(torch.stack([*others, bad]))
        same = torch.allclose(found.model, zero.model, rtol=1e-5, atol=1e-5)
        _hold(same and found.entries == zero.entries, ignores_what_is_not_finite, subject)


def charges_every_release(subject: Subject) -> None:
    """Every round that releases something has a ledger entry, of that round and that noise."""
    prepared = linear_world(subject.mechanism, torch.stack([random_unit(14), random_unit(15)]))
    held = None
    for round_num in (1, 2):
        found = release_round(prepared, held, round_num)
        held = found.held
        _hold(bool(found.entries), charges_every_release, subject)
        for entry in found.entries:
            noise = entry.sensitivity * entry.noise_multiplier
            fits = entry.round == round_num and math.isclose(noise, entry.noise_std, rel_tol=1e-6)
            _hold(fits, charges_every_release, subject)


def charges_whatever_the_data_are(subject: Subject) -> None:
    """What is charged does not depend on what units contribute."""
    first, second = (subject.release(torch.stack([unit, unit])) for unit in (_LARGE, _ZERO))
    _hold(first.entries == second.entries, charges_whatever_the_data_are, subject)


def adds_the_stated_noise(subject: Subject) -> None:
    """The noise on a release is as large as the ledger states, whatever the data are."""
    for unit in (_ZERO, random_unit(16)):
        found = [subject.total(unit[None], seed) for seed in range(1, _SEEDS + 1)]
        noises = torch.stack(found) - torch.stack(found).mean(dim=0)
        measured = float(noises.square().sum().div(DIMS * (_SEEDS - 1)).sqrt())
        stated = subject.release(unit[None]).entries[0].noise_std * subject.clip_norm
        _hold(0.85 * stated < measured < 1.18 * stated, adds_the_stated_noise, subject)


def noises_an_empty_cohort(subject: Subject) -> None:
    """A round without any client is noised and charged like any other."""
    mechanism = subject.mechanism
    if mechanism.canaries != "clients" or mechanism.releases_each_update:
        return  # clients add the noise: without one there is nothing to protect
    prepared = linear_world(mechanism, torch.stack([random_unit(17), random_unit(18)]))
    whole = release_round(prepared).entries
    if any(entry.clients for entry in whole):
        return  # clients take turns: no round is empty
    empty = release_round(prepared, clients=[])
    _hold(empty.entries == whole and bool(empty.model.all()), noises_an_empty_cohort, subject)


def draws_noise_by_seed_and_round(subject: Subject) -> None:
    """The same seed gives the same release; another seed or round gives other noise."""
    units = torch.stack([_ZERO, _ZERO])
    first, again, other = (subject.release(units, seed) for seed in (1, 1, 2))
    _hold(torch.equal(first.model, again.model), draws_noise_by_seed_and_round, subject)
    prepared = linear_world(subject.mechanism, units)
    later = release_round(prepared, round_num=2)
    fresh = [float((first.model != one.model).double().mean()) for one in (other, later)]
    _hold(min(fresh) > 0.9, draws_noise_by_seed_and_round, subject)


def resumes_from_its_state(subject: Subject) -> None:
    """A run that is saved, loaded and continued releases what one that was not releases."""
    prepared = linear_world(subject.mechanism, torch.stack([random_unit(19), random_unit(20)]))
    held = release_round(prepared).held
    stream = io.BytesIO()
    torch.save(held, stream)
    whole = release_round(prepared, held, 2)
    stream.seek(0)
    fresh = linear_world(subject.mechanism, torch.stack([random_unit(19), random_unit(20)]))
    resumed = release_round(fresh, torch.load(stream, weights_only=False), 2)
    same = torch.equal(whole.model, resumed.model) and whole.entries == resumed.entries
    _hold(same, resumes_from_its_state, subject)


MECHANISM_CHECKS: tuple[Callable[[Subject], None], ...] = (
    charges_every_release,
    charges_whatever_the_data_are,
    draws_noise_by_seed_and_round,
    resumes_from_its_state,
    respects_its_sensitivity,
    ignores_what_is_not_finite,
    adds_the_stated_noise,
    noises_an_empty_cohort,
)


def _hold(kept: bool, check: Callable[[Subject], None], subject: Subject) -> None:
    if not kept:
        raise ContractError(f"{subject.mechanism.name} breaks its contract: {check.__doc__}")
