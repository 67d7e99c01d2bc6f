"""Drift correction on quadratics, where the optimum is known (spec sections 1.5 and 7.4 to 7.8)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import small_world

from fedsim import plans, splits, trees
from fedsim.aggregate import mean
from fedsim.check import direct
from fedsim.data import Dataset, Examples, Source
from fedsim.experiment import Settings, check_scenario, open_experiment
from fedsim.rounds import begin, finish_round, plan_round
from fedsim.states import ClientStates
from fedsim.steps import counted, sgd
from fedsim.tasks import Task
from fedsim.types import Batch
from fedsim.validate import InputError
from strategies import (
    delta_sgd,
    fedavg,
    fedcm,
    feddyn,
    fednova,
    fedsam,
    fedspeed,
    mofedsam,
    scaffold,
)

CLIENTS, DIMS = 8, 3
_draw = np.random.default_rng(5)
CURVES = torch.from_numpy(_draw.uniform(0.5, 3.0, (CLIENTS, DIMS)))
CENTRES = torch.from_numpy(_draw.normal(0, 2, (CLIENTS, DIMS)))
OPTIMUM = (CURVES * CENTRES).sum(0) / CURVES.sum(0)  # of the mean of 1/2 sum_j a_ij (x_j - c_ij)^2


def quadratic() -> Task:
    """Client i's loss is 1/2 sum_j a_ij (x_j - c_ij)^2; its one example is (a_i, c_i)."""

    def loss(params, batch, penalty=None):
        curves, centres = batch.x.unbind(dim=1)
        return (curves * (params["x"] - centres).square()).sum(dim=1) / 2

    return Task(
        name="quadratic",
        init=lambda seed: {"x": torch.zeros(DIMS, dtype=torch.float64)},
        loss=loss,
        stacked_loss=None,
        predict=lambda params, x: x,
        features=lambda params, x: x,
        loss_of=lambda logits, y: logits,
        convolutional=False,
    )


def quadratics() -> Source:
    def load(data_dir: Path | None) -> Dataset:
        x = torch.stack([CURVES, CENTRES], dim=1)
        examples = Examples(x, torch.zeros(CLIENTS, dtype=torch.int64))
        return Dataset(name="quadratics", train=examples, test=examples, num_classes=1)

    return Source(name="quadratics", load=load)


class Run(NamedTuple):
    """What there is after some rounds: models in order, the server's state, clients' states."""

    models: list
    server: object
    clients: object


def run(strategy, *, rounds=1, cohort=CLIENTS, steps=10, start=None, aggregator=None, states=None):
    scenario = small_world(
        data=quadratics(),
        split=splits.given(np.arange(CLIENTS)),
        task=quadratic(),
        strategy=strategy,
        plan=plans.random_batches(steps=steps, batch_size=1),
        aggregator=aggregator or mean("uniform"),
        population=CLIENTS,
        cohort=cohort,
    )
    experiment = open_experiment(scenario, Settings(width=CLIENTS, device="cpu"))
    held, accepted = begin(experiment), {}
    if start is not None:
        held = held._replace(server=held.server._replace(**start))
    memory = ClientStates(experiment.client_template)
    if states is not None:
        memory.restore({"committed": states, "pending": {}})
    exchange, models = direct(experiment, memory), []
    for round_num in range(1, rounds + 1):
        work = plan_round(experiment, held, round_num, accepted, exchange)
        outcome = finish_round(experiment, held, work, exchange(work))
        held = outcome.held
        accepted.update(dict.fromkeys(outcome.accepted, round_num))
        models.append(strategy.params(held.server)["x"])
    return Run(models, held.server, memory.fetch(list(range(CLIENTS)), accepted))


def distance(model):
    return float((model - OPTIMUM).norm())


def same(first, second, tolerance=1e-12):
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


GRADIENTS_AT_OPTIMUM = CURVES * (OPTIMUM - CENTRES)  # [clients, dims], their mean is zero

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
        from dataclasses import replace

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
    from strategies import principal_directions

    scenario = small_world(strategy=feddyn(steps=sgd(0.1)), aggregator=principal_directions())
    with pytest.raises(InputError, match="feddyn: aggregator must be a mean"):
        check_scenario(scenario, Settings())


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
            from fedsim.types import Released

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
    from fedsim.types import Bounded

    everyone = torch.tensor([1.0, 0.0, 3.0, 4.0])  # one client is empty
    for weights, expected in (("examples", 5 / 8), ("uniform", 2 / 3)):
        rule = mean(weights)
        stack = {"w": torch.ones(2, 1)}
        state = rule.add(rule.init({"w": torch.zeros(1)}), Bounded(stack, everyone[[0, 3]], np.inf))
        assert rule.finish(state, everyone).share == pytest.approx(expected)
    assert trees.num_bytes(stack) == 8
