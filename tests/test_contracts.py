"""Every strategy goes through the contract battery; joining it is one line in CASES."""

from dataclasses import replace

import pytest
import torch
from conftest import remembering

from fedsim import trees
from fedsim.check import STRATEGY_CHECKS, ContractError, check_strategy
from fedsim.steps import sgd
from strategies import (
    delta_sgd,
    fedadam,
    fedavg,
    fedavgm,
    fedcm,
    feddyn,
    fedld,
    fednova,
    fedprox,
    fedsam,
    fedspeed,
    fedsvd,
    fedyogi,
    ffa_lora,
    mofedsam,
    moon,
    scaffold,
)
from strategies.fedavg import Server

HEAVY = sgd(0.05, momentum=0.9, weight_decay=1e-3, decay=0.9)


CASES = [
    fedavg(steps=sgd(0.1)),
    replace(fedavg(steps=HEAVY, server_lr=0.5), name="fedavg with momentum steps"),
    fedprox(steps=sgd(0.1), mu=0.1),
    replace(fedprox(steps=HEAVY, mu=1.0), name="fedprox with momentum steps"),
    fedavgm(fedavg(steps=sgd(0.1)), server_lr=0.3),
    fedadam(fedavg(steps=sgd(0.1))),
    fedyogi(fedprox(steps=sgd(0.1), mu=0.1)),
    replace(fedavg(steps=delta_sgd()), name="fedavg with Delta-SGD steps"),
    replace(fedprox(steps=delta_sgd(), mu=0.1), name="fedprox with Delta-SGD steps"),
    feddyn(steps=sgd(0.1), strength=0.1),
    replace(feddyn(steps=delta_sgd()), name="feddyn with Delta-SGD steps"),
    fedspeed(steps=sgd(0.1), lam=5.0),
    replace(fedspeed(steps=HEAVY, rho=0.0), name="fedspeed with momentum steps"),
    scaffold(steps=sgd(0.1)),
    replace(scaffold(steps=delta_sgd()), name="scaffold with Delta-SGD steps"),
    fedadam(scaffold(steps=sgd(0.1))),
    fedcm(steps=sgd(0.1)),
    fednova(steps=sgd(0.1)),
    replace(fednova(steps=HEAVY), name="fednova with momentum steps"),
    fedsam(steps=sgd(0.1)),
    mofedsam(steps=sgd(0.1)),
    moon(steps=sgd(0.1)),
    replace(moon(steps=delta_sgd()), name="moon with Delta-SGD steps"),
    fedld(steps=sgd(0.1)),
    replace(fedld(steps=sgd(0.1), form="batch"), name="fedld of batches"),
    ffa_lora(steps=sgd(0.1)),
    fedsvd(steps=sgd(0.1)),
    replace(fedsvd(steps=HEAVY, period=2), name="fedsvd every other round"),
    remembering(sgd(0.1)),
    fedadam(remembering(sgd(0.1))),
]


@pytest.mark.parametrize("strategy", CASES, ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=lambda check: check.__name__)
def test_strategy_keeps_its_contract(strategy, check):
    check(strategy)


# --- the battery itself: each break must be seen, by the contract that forbids it ----------------

GOOD = fedavg(steps=sgd(0.1))


def _in_place_update(server, released):
    for name, value in server.params.items():
        value += released.diff[name]
    return server


def _random_update(server, released):
    """Draws from torch's global generator (in a client function, under vmap, torch refuses)."""
    noise = {name: torch.rand_like(value) for name, value in server.params.items()}
    return Server(trees.add_scaled(server.params, noise, 1e-3))


def _sleepy_step(local, batch, oracle, model, client):
    oracle.value(model.params, batch)
    return local


def _half_precision(server):
    return {name: value.half() for name, value in server.params.items()}


def _leaning_on_order():
    """A server whose step depends on how often it was called, kept outside of its state."""
    calls = []

    def update(server, released):
        calls.append(1)
        return Server(trees.add_scaled(server.params, released.diff, 1 / len(calls)))

    return replace(GOOD, update=update)


BROKEN = {
    "changes_none_of_its_arguments": replace(GOOD, update=_in_place_update),
    "same_seed_same_bits": replace(GOOD, update=_random_update),
    "learns": replace(GOOD, local_step=_sleepy_step),
    "keeps_names_shapes_and_types": replace(GOOD, params=_half_precision),
    "resumes_bit_for_bit": _leaning_on_order(),
}


@pytest.mark.parametrize("contract", BROKEN)
def test_the_battery_sees_a_broken(contract):
    check = next(check for check in STRATEGY_CHECKS if check.__name__ == contract)
    with pytest.raises(ContractError, match="breaks its contract"):
        check(BROKEN[contract])


def test_check_strategy_runs_the_whole_battery():
    with pytest.raises(ContractError, match="The same seed gives the same bits"):
        check_strategy(replace(GOOD, update=_random_update))
