"""FedAvg, FedProx, FedOpt: what their papers claim (arXiv:1602.05629, 1812.06127, 2003.00295)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw

from fedsim.core import trees
from fedsim.core.batch import Batch
from fedsim.core.errors import InputError
from fedsim.core.sampling import Everyone
from fedsim.core.settings import Settings
from fedsim.core.updates import Released
from fedsim.models.tasks import cross_entropy
from fedsim.server.setup import prepare
from fedsim.testing import direct, run_rounds
from strategies import batch_plans, fedadam, fedavg, fedavgm, fedprox, fedyogi
from strategies.aggregators import mean
from strategies.step_rules import sgd
from tests.helpers.worlds import small_world

FULL_BATCH = batch_plans.shuffled_epochs(epochs=1, batch_size=32)  # more than any client has


def run(rounds=3, seed=1, width=1, **parts):
    """The model after some rounds of the small world."""
    prepared = prepare(small_world(**parts), Settings(seed=seed, width=width))
    return prepared, run_rounds(prepared, direct(prepared), range(1, rounds + 1)).models[-1]


def assert_same(first, second, tolerance=0.0):
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=tolerance, atol=tolerance)


# --- FedAvg --------------------------------------------------------------------------------------


def test_one_full_batch_step_of_everyone_is_gradient_descent_on_the_weighted_loss():
    lr = 0.2
    prepared, after = run(rounds=1, strategy=fedavg(steps=sgd(lr)), plan=FULL_BATCH, cohort=6)
    x, y = prepared.dealt.dataset.train
    params = {k: v.clone().requires_grad_() for k, v in prepared.initial_params.items()}
    logits = prepared.scenario.task.predict(params, x)
    gradient = torch.autograd.grad(cross_entropy(logits, y).mean(), list(params.values()))
    expected = {k: v.detach() - lr * g for (k, v), g in zip(params.items(), gradient, strict=True)}
    assert_same(after, expected, 1e-6)


def test_identical_clients_together_do_what_one_of_them_does():
    def twins(count):
        from tests.helpers.worlds import blobs

        alone = blobs((10,)).load(None)
        from dataclasses import replace

        from fedsim.core.dataset import Examples, Source

        copies = replace(
            alone,
            train=Examples(alone.train.x.repeat(count, 1), alone.train.y.repeat(count)),
            train_owners=np.repeat([f"{i}" for i in range(count)], 10),
        )
        return {
            "data": Source(name="twins", load=lambda _: copies),
            "population": count,
            "cohort": count,
            "plan": FULL_BATCH,
        }

    _, one = run(sizes=(10,), **twins(1))
    _, four = run(sizes=(10,), **twins(4))
    assert_same(one, four, 1e-6)


def test_the_mean_does_not_depend_on_the_scale_of_the_weights():
    def aggregated(scale):
        rule = mean("examples")
        diff = {"w": torch.tensor([[1.0, 2.0], [5.0, -2.0], [0.0, 1.0]])}
        from fedsim.core.updates import Bounded

        weights = scale * torch.tensor([1.0, 3.0, 4.0])
        state = rule.add(rule.init({"w": torch.zeros(2)}), Bounded(diff, weights, np.inf))
        return rule.finish(state, Everyone(weights, 1.0)).diff

    assert_same(aggregated(1), aggregated(100), 1e-6)
    # (1 * (1, 2) + 3 * (5, -2) + 4 * (0, 1)) / 8
    assert_same(aggregated(1), {"w": torch.tensor([2.0, 0.0])}, 1e-6)


def test_half_the_server_lr_is_half_the_move():
    prepared, whole = run(rounds=1, strategy=fedavg(steps=sgd(0.1)))
    _, half = run(rounds=1, strategy=fedavg(steps=sgd(0.1), server_lr=0.5))
    move = trees.subtract(whole, prepared.initial_params)
    assert_same(half, trees.add_scaled(prepared.initial_params, move, 0.5), 1e-6)


# --- FedProx -------------------------------------------------------------------------------------


def test_fedprox_with_mu_zero_equals_fedavg_bit_for_bit():
    _, prox = run(strategy=fedprox(steps=sgd(0.1), mu=0.0))
    _, average = run(strategy=fedavg(steps=sgd(0.1)))
    assert_same(prox, average)


def test_a_strong_proximal_term_holds_clients_where_they_start():
    mu = 1e4
    prepared, after = run(rounds=1, strategy=fedprox(steps=sgd(0.5 / mu), mu=mu))
    _, free = run(rounds=1, strategy=fedavg(steps=sgd(0.1)))
    moved = trees.norm(trees.subtract(after, prepared.initial_params))
    assert moved < 1e-3 * trees.norm(trees.subtract(free, prepared.initial_params))


class Quadratic:
    """The oracle of F(x) = |x - 3|^2 / 2, whose gradient is x - 3."""

    def gradient(self, params, batch):
        return {name: value - 3 for name, value in params.items()}


def test_many_exact_local_steps_converge_to_the_proximal_point():
    mu, start = 2.0, {"x": torch.tensor([1.0, -1.0])}
    strategy = fedprox(steps=sgd(0.1), mu=mu)
    model = strategy.broadcast(strategy.init(start), 1)
    client = strategy.client_init(start)
    local = strategy.local_init(model, client)
    batch = Batch(*(torch.zeros(1) for _ in range(4)))
    for _ in range(200):
        local = strategy.local_step(local, batch, Quadratic(), model, client)
    # argmin |x - 3|^2 / 2 + mu / 2 |x - start|^2 = (3 + mu start) / (1 + mu)
    assert_same(local.params, {"x": (3 + mu * start["x"]) / (1 + mu)}, 1e-5)


# --- FedOpt --------------------------------------------------------------------------------------


def test_fedavgm_without_momentum_equals_its_base():
    _, momentum = run(strategy=fedavgm(fedavg(steps=sgd(0.1)), server_lr=1.0, beta=0.0))
    _, base = run(strategy=fedavg(steps=sgd(0.1)))
    assert_same(momentum, base)


def moves(strategy, diffs):
    """Where a server started at 0 goes when it is given these updates, one a round."""
    server = strategy.init({"w": torch.zeros(2)})
    path = []
    for diff in diffs:
        server = strategy.update(server, Released({"w": torch.tensor(diff)}, share=1.0))
        path.append(strategy.params(server)["w"])
    return server, path


def test_fedavgm_adds_up_past_updates():
    _, path = moves(fedavgm(fedavg(steps=sgd(1)), server_lr=0.5, beta=0.9), [[1.0, 0.0]] * 2)
    # m_1 = 1, m_2 = 0.9 + 1; x = 0.5 * (m_1 + m_2)
    assert_same({"w": path[-1]}, {"w": torch.tensor([0.5 * (1 + 1.9), 0.0])}, 1e-6)


def test_fedadam_takes_the_step_of_algorithm_2():
    lr, b1, b2, tau, d = 0.1, 0.9, 0.99, 1e-3, np.array([0.5, -2.0])
    strategy = fedadam(fedavg(steps=sgd(1)), server_lr=lr, beta_1=b1, beta_2=b2, tau=tau)
    _, path = moves(strategy, [d.tolist()] * 2)
    m, v, x = np.zeros(2), np.full(2, tau**2), np.zeros(2)
    for _ in range(2):
        m, v = b1 * m + (1 - b1) * d, b2 * v + (1 - b2) * d**2
        x = x + lr * m / (np.sqrt(v) + tau)
    np.testing.assert_allclose(path[-1].numpy(), x, rtol=1e-5)


def test_with_both_betas_zero_fedadam_takes_a_sign_like_step():
    d = [0.5, -2.0]
    strategy = fedadam(fedavg(steps=sgd(1)), server_lr=0.1, beta_1=0.0, beta_2=0.0, tau=1e-3)
    _, path = moves(strategy, [d])
    expected = [0.1 * value / (abs(value) + 1e-3) for value in d]
    np.testing.assert_allclose(path[-1].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("adaptive", [fedadam, fedyogi])
def test_under_a_constant_update_the_moments_converge_to_it_and_its_square(adaptive):
    d = [0.5, -2.0]
    server, _ = moves(adaptive(fedavg(steps=sgd(1))), [d] * 2000)
    np.testing.assert_allclose(server.m["w"].numpy(), d, rtol=1e-4)
    np.testing.assert_allclose(server.v["w"].numpy(), np.square(d), rtol=2e-2)


@pytest.mark.parametrize("adaptive", [fedadam, fedyogi])
def test_a_zero_update_leaves_the_model_where_it_is(adaptive):
    _, path = moves(adaptive(fedavg(steps=sgd(1))), [[0.0, 0.0]])
    assert path[-1].tolist() == [0.0, 0.0]


@given(draw.lists(draw.floats(-100, 100, width=32), min_size=2, max_size=6))
@settings(deadline=None, max_examples=50)
def test_yogi_moves_its_second_moment_by_at_most_a_hundredth_of_the_square(sizes):
    strategy = fedyogi(fedavg(steps=sgd(1)), beta_2=0.99)
    server = strategy.init({"w": torch.zeros(1)})
    for size in sizes:
        before = server.v["w"]
        server = strategy.update(server, Released({"w": torch.tensor([size])}, share=1.0))
        moved = float((server.v["w"] - before).abs())
        assert moved <= 0.01 * size**2 * (1 + 1e-4) + 1e-6 * float(before)


def test_every_learning_rate_and_constant_changes_the_result():
    base = fedavg(steps=sgd(0.1))
    variants = [
        base,
        fedavg(steps=sgd(0.2)),
        fedavg(steps=sgd(0.1, momentum=0.5)),
        fedavg(steps=sgd(0.1, weight_decay=0.1)),
        fedavg(steps=sgd(0.1, decay=0.5)),
        fedprox(steps=sgd(0.1), mu=0.5),
        fedavgm(base),
        fedavgm(base, beta=0.5),
        fedadam(base),
        fedadam(base, server_lr=0.02),
        fedadam(base, beta_1=0.5),
        fedadam(base, beta_2=0.5),
        fedadam(base, tau=0.1),
        fedyogi(base),
    ]
    models = [run(strategy=variant)[1] for variant in variants]
    flat = [torch.cat([v.flatten() for v in model.values()]) for model in models]
    for i, first in enumerate(flat):
        assert all(not torch.allclose(first, other, atol=1e-6) for other in flat[i + 1 :])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sgd(0), r"sgd: lr must be > 0; got 0\. Use 0\.1\."),
        (lambda: sgd(0.1, momentum=1.0), r"momentum must be in \[0, 1\)"),
        (lambda: sgd(float("nan")), "lr must be > 0; got nan"),
        (lambda: fedprox(steps=sgd(1), mu=-1), "fedprox: mu must be >= 0; got -1"),
        (lambda: fedavg(steps=sgd(1), server_lr=0), "fedavg: server_lr must be > 0"),
        (lambda: fedadam(fedavg(steps=sgd(1)), tau=0), "fedadam: tau must be > 0"),
        (lambda: fedavgm(fedavg(steps=sgd(1)), beta=1), "fedavgm: beta must be in"),
        (lambda: mean("size"), "weights must be examples or uniform; got 'size'"),
    ],
)
def test_a_constant_out_of_range_is_refused_with_a_remedy(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_momentum_and_decay_follow_the_box():
    rule = sgd(1.0, momentum=0.5, weight_decay=0.1, decay=0.5)
    params = {"x": torch.tensor([2.0])}
    state = rule.init(params, torch.tensor(2.0))  # round 2: lr = 0.5
    for _ in range(2):
        params, state = rule.step(state, params, lambda p: {"x": torch.ones(1)})
    # v_1 = 1 + .1 * 2 = 1.2, x_1 = 2 - .6 = 1.4; v_2 = .6 + 1 + .14 = 1.74, x_2 = 1.4 - .87
    assert_same(params, {"x": torch.tensor([0.53])}, 1e-6)
