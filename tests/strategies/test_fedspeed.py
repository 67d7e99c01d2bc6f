"""FedSpeed and FedDyn on quadratics (arXiv:2302.10429 and 2111.04263, Algorithm 1 of each)."""

from dataclasses import replace

import pytest
import torch

from fedsim.core.batch import Batch
from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.server.setup import check_scenario
from strategies import fedavg, feddyn, fedsam, fedspeed, scaffold
from strategies.aggregators import principal_directions
from strategies.step_rules import sgd
from tests.helpers.quadratics import (
    CENTRES,
    CLIENTS,
    CURVES,
    DIMS,
    GRADIENTS_AT_OPTIMUM,
    OPTIMUM,
    distance,
    run,
    same,
)
from tests.helpers.worlds import small_world

# --- 1.5, 7.4, 7.5: the exact optimum under partial participation ---------------------------------

CORRECTED = [
    scaffold(steps=sgd(0.05)),
    feddyn(steps=sgd(0.05), strength=1.0),
    fedspeed(steps=sgd(0.05), lam=1.0, rho=0.0),
]


@pytest.mark.parametrize("strategy", CORRECTED, ids=lambda strategy: strategy.name)
def test_with_half_of_the_clients_a_round_it_reaches_the_exact_optimum(strategy):
    ended = run(strategy, rounds=400, cohort=CLIENTS // 2)
    assert distance(ended.models[-1]) < 1e-8


def test_with_half_of_the_clients_a_round_fedavg_does_not_reach_the_optimum():
    ended = run(fedavg(steps=sgd(0.05)), rounds=100, cohort=CLIENTS // 2)
    assert min(map(distance, ended.models[-50:])) > 0.05


# --- 7.5, 1.5: FedDyn and FedSpeed ---------------------------------------------------------------


def test_fedspeed_with_rho_zero_equals_feddyn_with_strength_one_over_lambda():
    lam = 2.5
    ours = run(fedspeed(steps=sgd(0.05), lam=lam, rho=0.0), rounds=30, cohort=3)
    other = run(feddyn(steps=sgd(0.05), strength=1 / lam), rounds=30, cohort=3)
    for first, second in zip(ours.models, other.models, strict=True):
        same(first, second)


def test_under_full_participation_the_papers_server_and_the_codes_agree():
    code = run(fedspeed(steps=sgd(0.05), lam=2.0), rounds=10)
    paper = run(fedspeed(steps=sgd(0.05), lam=2.0, server="paper"), rounds=10)
    for first, second in zip(code.models, paper.models, strict=True):
        same(first, second)


def test_the_papers_server_refuses_a_partial_cohort():
    paper = fedspeed(steps=sgd(0.1), server="paper")
    with pytest.raises(InputError, match="fedspeed: cohort must be the whole population"):
        check_scenario(small_world(strategy=paper), Settings())


@pytest.mark.parametrize("server", ["all clients", "paper"])
def test_started_at_the_optimum_with_the_duals_at_the_gradients_only_the_papers_server_moves(
    server,
):
    """The one-round test of section 1.5 that tells the two servers apart."""
    lam, cohort = 1.5, 3
    strategy = fedspeed(steps=sgd(0.05), lam=lam, rho=0.0, server=server)
    duals = {i: [gradient.clone()] for i, gradient in enumerate(GRADIENTS_AT_OPTIMUM)}
    if server == "paper":  # past its refusal of partial cohorts, to see what it would do
        strategy = replace(strategy, objection=lambda scenario: None)
    ended = run(strategy, cohort=cohort, start={"params": {"x": OPTIMUM}}, states=duals)
    moved = distance(ended.models[0])
    if server == "all clients":
        assert moved < 1e-12
    else:
        assert moved > 0.1


def test_the_servers_h_is_the_mean_of_the_clients_duals_after_any_cohorts():
    ended = run(feddyn(steps=sgd(0.05), strength=0.7), rounds=7, cohort=3)
    same(ended.server.dual["x"], ended.clients.dual["x"].mean(dim=0))


def test_a_dual_is_an_exponential_average_of_the_corrected_gradients_and_the_old_dual():
    lr, lam, steps = 1 / 16, 0.5, 6  # powers of two: exact in the float32 of a learning rate
    strategy = fedspeed(steps=sgd(lr), lam=lam, rho=0.3)
    model = strategy.broadcast(strategy.init({"x": torch.zeros(DIMS, dtype=torch.float64)}), 1)
    old = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    client = strategy.client_init(model.params)._replace(dual={"x": old})
    asked = []

    class Noted:
        """Client 0's oracle; every second answer is the corrected gradient (mix is 1)."""

        def gradient(self, params, batch, penalty=None, held=None):
            asked.append(CURVES[0] * (params["x"] - CENTRES[0]))
            return {"x": asked[-1]}

    local = strategy.local_init(model, client)
    for _ in range(steps):
        local = strategy.local_step(local, Batch(*(torch.zeros(1),) * 4), Noted(), model, client)
    _, after = strategy.local_end(local, model, client)
    keep = 1 - lr / lam
    weights = [lr / lam * keep ** (steps - 1 - k) for k in range(steps)]
    gamma = 1 - keep**steps
    assert sum(weights) == pytest.approx(gamma, rel=1e-12)
    corrected = sum(w * g for w, g in zip(weights, asked[1::2], strict=True))
    same(after.dual["x"], (1 - gamma) * old + corrected)


def test_with_lambda_as_the_learning_rate_the_dual_is_the_last_corrected_gradient():
    lr = 1 / 8
    ended = run(fedspeed(steps=sgd(lr), lam=lr, rho=0.0), steps=1)
    same(ended.clients.dual["x"], CURVES * (0 - CENTRES))  # one step, from x = 0


def test_a_long_proximal_step_and_no_dual_give_the_clients_of_fedavg():
    speed = fedspeed(steps=sgd(0.05), lam=1e12, rho=0.0)
    average = run(fedavg(steps=sgd(0.05)), steps=5).models[0]
    # the clients' mean is x0 + d, and hbar another d: the first round goes twice as far
    same(run(speed, steps=5).models[0], 2 * average, 1e-9)


def test_a_local_step_goes_along_the_gradient_of_the_point_uphill():
    lr, rho = 0.1, 0.5
    moved = run(fedspeed(steps=sgd(lr), lam=1e9, rho=rho), steps=1, start=None).clients
    first = CURVES * (0 - CENTRES)
    above = rho * first / first.norm(dim=1, keepdim=True)
    second = CURVES * (above - CENTRES)
    same(moved.dual["x"] * -1e9, -lr * second, 1e-6)


def test_a_zero_gradient_is_not_stepped_along():
    start = {"params": {"x": CENTRES[0].clone()}}
    strategy = fedsam(steps=sgd(0.1), rho=0.5)
    ended = run(strategy, steps=1, cohort=CLIENTS, start=start)
    assert torch.isfinite(ended.models[0]).all()


@pytest.mark.parametrize("values", [{"lam": 0.0}, {"rho": -1.0}, {"mix": 1.5}])
def test_fedspeed_refuses_values_out_of_range(values):
    with pytest.raises(InputError, match="fedspeed: "):
        fedspeed(steps=sgd(0.1), **values)


def test_a_strategy_with_duals_refuses_an_aggregator_that_is_no_mean():
    scenario = small_world(strategy=feddyn(steps=sgd(0.1)), aggregator=principal_directions())
    with pytest.raises(InputError, match="feddyn: aggregator must be a mean"):
        check_scenario(scenario, Settings())


def test_what_a_client_sends_in_the_papers_form_follows_from_its_two_duals():
    """x_K - lam ghat_new = x^t - lam (2 ghat_new - ghat_old), section 1.5."""
    lam, lr = 2.0, 1 / 16
    strategy = fedspeed(steps=sgd(lr), lam=lam, rho=0.2, server="paper")
    start = {"x": torch.ones(DIMS, dtype=torch.float64)}
    model = strategy.broadcast(strategy.init(start), 1)
    old = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    client = strategy.client_init(start)._replace(dual={"x": old})
    local = strategy.local_init(model, client)
    for _ in range(3):
        local = strategy.local_step(local, Batch(*(torch.zeros(1),) * 4), One(), model, client)
    sent, after = strategy.local_end(local, model, client)
    same(sent["x"], -lam * (2 * after.dual["x"] - old))


class One:
    """The oracle of client 0."""

    def gradient(self, params, batch, penalty=None, held=None):
        return {"x": CURVES[0] * (params["x"] - CENTRES[0])}


def test_one_local_step_moves_against_the_corrected_gradient_less_the_dual():
    lr = 1 / 16
    duals = {i: [gradient.clone()] for i, gradient in enumerate(GRADIENTS_AT_OPTIMUM)}
    strategy = fedspeed(steps=sgd(lr), lam=4.0, rho=0.0)
    ended = run(strategy, steps=1, states=duals)
    moved = -4.0 * (ended.clients.dual["x"] - GRADIENTS_AT_OPTIMUM)
    same(moved, -lr * (CURVES * (0 - CENTRES) - GRADIENTS_AT_OPTIMUM))
