"""SCAFFOLD, FedNova, FedCM and FedSAM on quadratics whose optimum is known."""

import numpy as np
import pytest
import torch

from fedsim.core.sampling import Everyone
from fedsim.core.updates import Bounded, Released
from strategies import fedavg, fedcm, fednova, fedsam, mofedsam, scaffold
from strategies.aggregators import mean
from strategies.shared.reach import counted
from strategies.step_rules import delta_sgd, sgd
from tests.helpers.quadratics import CENTRES, CLIENTS, CURVES, DIMS, distance, run, same

# --- 7.4: SCAFFOLD -------------------------------------------------------------------------------


def test_the_servers_control_is_the_mean_of_the_clients_after_any_cohorts():
    ended = run(scaffold(steps=sgd(0.05)), rounds=7, cohort=3)
    same(ended.server.control["x"], ended.clients.control["x"].mean(dim=0))


def test_the_first_round_of_scaffold_is_fedavgs():
    same(run(scaffold(steps=sgd(0.05))).models[0], run(fedavg(steps=sgd(0.05))).models[0])


def test_a_client_control_is_its_mean_gradient_whatever_the_number_of_steps():
    lr, steps = 1 / 16, 4
    ended = run(scaffold(steps=sgd(lr)), steps=steps)
    x, total = torch.zeros(CLIENTS, DIMS, dtype=torch.float64), 0
    for _ in range(steps):
        gradient = CURVES * (x - CENTRES)
        x, total = x - lr * gradient, total + gradient
    same(ended.clients.control["x"], total / steps)


# --- 7.6: FedNova --------------------------------------------------------------------------------


def test_with_equal_steps_fednova_equals_fedavg():
    nova, average = run(fednova(steps=sgd(0.05))), run(fedavg(steps=sgd(0.05)))
    same(nova.models[0], average.models[0])


def test_with_unequal_steps_fednova_ends_near_the_optimum_and_fedavg_elsewhere():
    """By hand: clients take 1, 3, 7 or 12 steps, for which no batch plan is needed."""
    lr, turns = 0.005, [1, 3, 7, 12] * 2
    ends = {}
    for make in (fedavg, fednova):
        strategy = make(steps=sgd(lr))
        server = strategy.init({"x": torch.zeros(DIMS, dtype=torch.float64)})
        for _ in range(1500):
            model, sent = strategy.broadcast(server, 1), []
            for i, count in enumerate(turns):
                oracle = Client(i)
                local = strategy.local_init(model, strategy.client_init(model.params))
                for _ in range(count):
                    local = strategy.local_step(local, None, oracle, model, None)
                sent.append(strategy.local_end(local, model, None)[0])
            diff = {k: torch.stack([one[k] for one in sent]).mean(0) for k in sent[0]}
            server = strategy.update(server, Released(diff, share=1.0))
        ends[make.__name__] = distance(server.params["x"])
    assert ends["fednova"] < 0.01
    assert ends["fedavg"] > 20 * ends["fednova"]


class Client:
    """The oracle of one quadratic."""

    def __init__(self, number):
        self.number = number

    def gradient(self, params, batch, penalty=None, held=None):
        return {"x": CURVES[self.number] * (params["x"] - CENTRES[self.number])}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_reach_of_a_step_rule_is_how_far_a_gradient_of_one_has_moved(momentum):
    rule, reach = counted(sgd(0.1, momentum=momentum, decay=0.5))
    point = {"x": torch.zeros(1, dtype=torch.float64)}
    state = rule.init(point, torch.tensor(3.0))
    for _ in range(7):
        point, state = rule.step(state, point, lambda x: {"x": torch.ones_like(x["x"])})
    assert float(reach(state)) == pytest.approx(-float(point["x"]), rel=1e-6)


def test_the_reach_of_delta_sgd_is_the_sum_of_its_learning_rates():
    rule, reach = counted(delta_sgd(lr=0.1))
    point = {"x": torch.zeros(1, dtype=torch.float64)}
    state = rule.init(point, torch.tensor(1.0))
    for _ in range(5):
        point, state = rule.step(state, point, lambda x: {"x": torch.ones_like(x["x"])})
    assert float(reach(state)) == pytest.approx(-float(point["x"]), rel=1e-6)


# --- 7.7, 7.8: FedCM, FedSAM, MoFedSAM -----------------------------------------------------------


def test_fedcm_with_alpha_one_equals_fedavg():
    ours, average = (
        run(fedcm(steps=sgd(0.05), alpha=1.0), rounds=5),
        run(fedavg(steps=sgd(0.05)), rounds=5),
    )
    same(ours.models[-1], average.models[-1])


def test_after_one_full_batch_step_of_everyone_the_momentum_is_the_mean_gradient():
    alpha = 0.3
    ended = run(fedcm(steps=sgd(0.05), alpha=alpha), steps=1)
    same(ended.server.momentum["x"], alpha * (CURVES * (0 - CENTRES)).mean(dim=0), 1e-7)


def test_fedsam_with_rho_zero_equals_fedavg():
    ours, average = run(fedsam(steps=sgd(0.05), rho=0.0)), run(fedavg(steps=sgd(0.05)))
    same(ours.models[0], average.models[0])


def test_mofedsam_with_rho_zero_equals_fedcm():
    ours, other = (
        run(strategy, rounds=4, cohort=3)
        for strategy in (mofedsam(steps=sgd(0.05), rho=0.0), fedcm(steps=sgd(0.05)))
    )
    same(ours.models[-1], other.models[-1])


def test_the_share_of_a_mean_is_the_part_of_the_population_in_it():
    """On it rest h of FedDyn and c of SCAFFOLD."""
    everyone = torch.tensor([1.0, 0.0, 3.0, 4.0])  # one client is empty
    for weights, expected in (("examples", 5 / 8), ("uniform", 2 / 3)):
        rule = mean(weights)
        stack = {"w": torch.ones(2, 1)}
        state = rule.add(rule.init({"w": torch.zeros(1)}), Bounded(stack, everyone[[0, 3]], np.inf))
        assert rule.finish(state, Everyone(everyone, 0.5)).share == pytest.approx(expected)
