"""Every strategy goes through the contract battery; joining it is one line in CASES."""

from dataclasses import replace

import pytest
import torch

import strategies as known
from fedsim.core import trees
from fedsim.testing import STRATEGY_CHECKS, ContractError, check_strategy, direct
from fedsim.testing.world import model_after, world
from strategies.batch_plans import data_curriculum
from strategies.client_selection import client_curriculum
from strategies.fedavg import Server
from strategies.shared.surrogate import Surrogate
from strategies.step_rules import adam, boxed, delta_sgd, sgd
from tests.helpers.worlds import remembering

HEAVY = sgd(0.05, momentum=0.9, weight_decay=1e-3, decay=0.9)
SMALL = {
    "active": 2,
    "candidates": 10,
    "surrogate": Surrogate(memory=20, features=32, noise=1e-2),
}

CASES = [
    known.fedavg(steps=sgd(0.1)),
    replace(known.fedavg(steps=HEAVY, server_lr=0.5), name="fedavg with momentum steps"),
    known.fedprox(steps=sgd(0.1), mu=0.1),
    replace(known.fedprox(steps=HEAVY, mu=1.0), name="fedprox with momentum steps"),
    known.fedavgm(known.fedavg(steps=sgd(0.1)), server_lr=0.3),
    known.fedadam(known.fedavg(steps=sgd(0.1))),
    known.fedyogi(known.fedprox(steps=sgd(0.1), mu=0.1)),
    replace(known.fedavg(steps=delta_sgd()), name="fedavg with Delta-SGD steps"),
    replace(known.fedprox(steps=delta_sgd(), mu=0.1), name="fedprox with Delta-SGD steps"),
    known.feddyn(steps=sgd(0.1), strength=0.1),
    replace(known.feddyn(steps=delta_sgd()), name="feddyn with Delta-SGD steps"),
    known.fedspeed(steps=sgd(0.1), lam=5.0),
    replace(known.fedspeed(steps=HEAVY, rho=0.0), name="fedspeed with momentum steps"),
    known.scaffold(steps=sgd(0.1)),
    replace(known.scaffold(steps=delta_sgd()), name="scaffold with Delta-SGD steps"),
    known.fedadam(known.scaffold(steps=sgd(0.1))),
    known.fedcm(steps=sgd(0.1)),
    known.fednova(steps=sgd(0.1)),
    replace(known.fednova(steps=HEAVY), name="fednova with momentum steps"),
    known.fedsam(steps=sgd(0.1)),
    known.mofedsam(steps=sgd(0.1)),
    known.moon(steps=sgd(0.1)),
    replace(known.moon(steps=delta_sgd()), name="moon with Delta-SGD steps"),
    known.feddecorr(steps=sgd(0.1)),
    known.fedld(steps=sgd(0.1)),
    replace(known.fedld(steps=sgd(0.1), form="batch"), name="fedld of batches"),
    known.monna(steps=sgd(0.1)),
    replace(known.monna(steps=delta_sgd(), beta=0.5), name="monna with Delta-SGD steps"),
    replace(known.fedavg(steps=adam(0.01)), name="fedavg with Adam steps"),
    replace(
        known.scaffold(steps=boxed(adam(0.01), -1, 1)), name="scaffold with Adam steps in a box"
    ),
    known.zeroth_order(known.fedavg(steps=sgd(0.02)), directions=4, smoothing=0.2),
    known.fzoos(steps=sgd(0.02), bounds=(-1, 1), looks=1, **SMALL),
    known.ffa_lora(steps=sgd(0.1)),
    known.fedadam(known.ffa_lora(steps=sgd(0.1))),
    known.fedsvd(steps=sgd(0.1)),
    replace(known.fedsvd(steps=HEAVY, period=2), name="fedsvd every other round"),
    remembering(sgd(0.1)),
    known.fedadam(remembering(sgd(0.1))),
]


@pytest.mark.parametrize("strategy", CASES, ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=lambda check: check.__name__)
def test_strategy_keeps_its_contract(strategy, check):
    check(strategy)


@pytest.mark.parametrize("strategy", CASES, ids=lambda strategy: strategy.name)
def test_strategy_goes_with_both_curricula(strategy):
    parts = {
        "plan": data_curriculum(epochs=2, batch_size=4),
        "selection": client_curriculum(),
    }
    models = [model_after(world(strategy, width=width, **parts), direct) for width in (1, 7)]
    for name, value in models[0].items():
        torch.testing.assert_close(value, models[1][name], rtol=1e-5, atol=1e-5)


# --- the battery itself: each break must be seen, by the contract that forbids it ----------------

GOOD = known.fedavg(steps=sgd(0.1))


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


def _counting_steps():
    """Clients whose steps depend on how many steps were taken before, by any client."""
    calls = []

    def local_step(local, batch, oracle, model, client):
        calls.append(1)
        gradient = oracle.gradient(local.params, batch)
        return local._replace(params=trees.add_scaled(local.params, gradient, -1 / len(calls)))

    return replace(GOOD, local_step=local_step)


BROKEN = {
    "changes_none_of_its_arguments": replace(GOOD, update=_in_place_update),
    "same_seed_same_bits": replace(GOOD, update=_random_update),
    "learns": replace(GOOD, local_step=_sleepy_step),
    "keeps_names_shapes_and_types": replace(GOOD, params=_half_precision),
    "resumes_bit_for_bit": _leaning_on_order(),
    "agrees_with_the_reference": _counting_steps(),
}


@pytest.mark.parametrize("contract", BROKEN)
def test_the_battery_sees_a_broken(contract):
    check = next(check for check in STRATEGY_CHECKS if check.__name__ == contract)
    with pytest.raises(ContractError, match="breaks its contract"):
        check(BROKEN[contract])


def test_check_strategy_runs_the_whole_battery():
    with pytest.raises(ContractError, match="The same seed gives the same bits"):
        check_strategy(replace(GOOD, update=_random_update))
