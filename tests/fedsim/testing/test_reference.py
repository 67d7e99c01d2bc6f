"""The slow twin agrees with the fast code, whatever selection, plan, aggregator or mechanism."""

import runpy
from pathlib import Path

import pytest
import torch

from fedsim.core.settings import Settings
from fedsim.server.setup import prepare
from fedsim.testing import direct, inputs_of, run_reference, run_rounds
from privacy import client_dp, dp_sgd
from scenarios.digits_quickstart import scenario
from strategies import batch_plans, client_selection, scaffold
from strategies.aggregators import coordinate_median, public_mean
from strategies.batch_plans import data_curriculum
from strategies.client_selection import client_curriculum
from strategies.step_rules import sgd
from tests.helpers.worlds import small_world

EXAMPLES = Path(__file__).parents[3] / "examples"

WORLDS = {
    "FedAvg": {},
    "SCAFFOLD": {"strategy": scaffold(steps=sgd(0.1))},
    "curricula": {
        "plan": data_curriculum(epochs=2, batch_size=4),
        "selection": client_curriculum(),
    },
    "a robust aggregator": {"aggregator": coordinate_median()},
    "Poisson cohorts, client-level privacy, a client that diverged": {
        "selection": client_selection.poisson(),
        "aggregator": public_mean(),
        "mechanism": client_dp(noise_multiplier=0.5, clip=0.3),
        "poison": 1,
    },
}


@pytest.mark.parametrize("name", WORLDS)
def test_the_reference_gives_the_same_models_to_float_rounding(name):
    prepared = prepare(small_world(**WORLDS[name]), Settings(width=3, workers=1, device="cpu"))
    slow, fast = run_reference(prepared, 3), run_rounds(prepared, direct(prepared), range(1, 4))
    for one, other in zip(slow, fast.models, strict=True):
        for key, value in one.items():
            torch.testing.assert_close(value, other[key], rtol=1e-5, atol=1e-6)


def test_the_reference_refuses_what_it_has_no_twin_of():
    plan = batch_plans.poisson_batches(steps=2, sampling_prob=0.5)
    private = small_world(mechanism=dp_sgd(noise_multiplier=1.0), plan=plan)
    prepared = prepare(private, Settings(width=3, workers=1, device="cpu"))
    with pytest.raises(ValueError, match=r"run_reference: scenario must have no attack"):
        run_reference(prepared, 1)


def test_fedavg_by_hand_gives_the_same_model_as_the_fast_run():
    world = scenario()
    example = runpy.run_path(str(EXAMPLES / "fedavg_by_hand.py"))
    by_hand = example["fedavg"](inputs_of(world, seed=1), rounds=3, lr=0.1).state_dict()
    prepared = prepare(world, Settings(seed=1, width=8, workers=1, device="cpu"))
    fast = run_rounds(prepared, direct(prepared), range(1, 4)).models[-1]
    assert by_hand.keys() == fast.keys()
    for name, value in by_hand.items():
        torch.testing.assert_close(value, fast[name], rtol=1e-5, atol=1e-6)
