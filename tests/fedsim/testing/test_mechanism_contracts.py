"""Every mechanism passes the public battery, and every broken one is caught by the right check."""

from dataclasses import replace

import pytest

from fedsim.core.updates import Bounded, Released
from fedsim.testing import ContractError, check_mechanism
from fedsim.testing.mechanism_contracts import MECHANISM_CHECKS
from privacy import client_dp, dp_sgd
from privacy.mechanisms.clipping import flat
from privacy.mechanisms.dp_sgd import fixed_rule
from tests.end_to_end.test_own_mechanism import rounded_gaussian
from tests.helpers.mechanisms import MECHANISMS

QUICK = ("client_dp", "dp_sgd")  # one for each kind; CI's slow tests have all of them


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MECHANISMS],
)
def test_every_mechanism_keeps_its_contract(name):
    case = MECHANISMS[name]
    check_mechanism(case.make(1.0), clip_norm=case.clip, summed=case.summed)


def test_so_does_one_in_a_file_of_its_own():
    check_mechanism(rounded_gaussian(1.0, grid=1e-6))  # finer than what the checks look at


GOOD = client_dp(noise_multiplier=1.0)


def unbounded(state, update):
    return Bounded(update.diff, update.num_examples, l2_bound=1.0)


def noise_of(share):
    return replace(GOOD, release=client_dp(noise_multiplier=share).release)


def counting():
    """The noise of a release depends on how many there were in this process."""
    releases = []

    def release(state, aggregate, noise):
        releases.append(1)
        return GOOD.release(state, aggregate, noise._replace(round_num=len(releases)))

    return replace(GOOD, release=release)


def noise_on_data_alone(state, aggregate, noise):
    """No noise where nothing was sent."""
    if not any(bool(tensor.any()) for tensor in aggregate.diff.values()):
        return Released(aggregate.diff, aggregate.share), state
    return GOOD.release(state, aggregate, noise)


def overcharging(state, exposure):
    """The ledger states more noise than its own multiplier and sensitivity."""
    (entry,) = GOOD.spend(state, exposure)
    return (replace(entry, noise_std=2 * entry.noise_std),)


def leaking(state, aggregate, noise):
    """Noise whose size follows the data."""
    released, state = GOOD.release(state, aggregate, noise)
    longest = max(float(tensor.abs().max()) for tensor in aggregate.diff.values())
    share = 1.0 if longest == 0 else 0.4
    kept = {
        name: tensor + share * (released.diff[name] - tensor)
        for name, tensor in aggregate.diff.items()
    }
    return Released(kept, released.share), state


def same_every_round(state, aggregate, noise):
    return GOOD.release(state, aggregate, noise._replace(round_num=1))


BROKEN = {
    "no clip": (replace(GOOD, bound=unbounded), "No unit moves a release"),
    "2/3 of the noise": (noise_of(2 / 3), "as large as the ledger states"),
    "3/2 of the noise": (noise_of(3 / 2), "as large as the ledger states"),
    "2/3 of the noise on examples": (
        replace(dp_sgd(noise_multiplier=1.0), example_rule=fixed_rule(flat(1.0), 2 / 3)),
        "as large as the ledger states",
    ),
    "examples clipped too late": (
        replace(dp_sgd(noise_multiplier=1.0), example_rule=fixed_rule(flat(2.0), 0.5)),
        "No unit moves a release",
    ),
    "noise that follows the data": (replace(GOOD, release=leaking), "No unit moves a release"),
    "no charge": (replace(GOOD, spend=lambda state, exposure: ()), "has a ledger entry"),
    "another noise in the ledger": (replace(GOOD, spend=overcharging), "has a ledger entry"),
    "no noise without data": (replace(GOOD, release=noise_on_data_alone), "gives other noise"),
    "state outside of the state": (counting(), "The same seed gives the same release"),
    "the same noise in every round": (
        replace(GOOD, release=same_every_round),
        "another seed or round gives other noise",
    ),
    "no noise at all": (
        replace(GOOD, release=lambda state, a, noise: (Released(a.diff, a.share), state)),
        "gives other noise",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_mechanism_is_caught(name):
    mechanism, contract = BROKEN[name]
    with pytest.raises(ContractError, match=contract):
        check_mechanism(mechanism)


def test_the_contract_is_what_the_message_says():
    for check in MECHANISM_CHECKS:
        assert check.__doc__.endswith(".")
    with pytest.raises(
        ContractError, match=r"client_dp\(z=1, flat\(1\)\) breaks its contract: No un"
    ):
        check_mechanism(replace(GOOD, bound=unbounded))
