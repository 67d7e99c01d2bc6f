"""Finite differences in the place of gradients, and the step rules that go with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import vmap

from fedsim.core import trees
from fedsim.core.batch import Batch
from fedsim.core.errors import InputError
from fedsim.models.black_box import quadratics
from fedsim.training.oracle import PlainOracle
from strategies import batch_plans, fedavg, fedcm, fedld, fedprox, scaffold, sharp, zeroth_order
from strategies.aggregators import mean
from strategies.shared.reach import averaged, counted
from strategies.step_rules import adam, boxed, sgd
from strategies.zeroth_order import _Differences
from tests.helpers.worlds import run_by_hand, small_world

DIMS = 12


def step_key(number=0):
    return Batch(*(torch.zeros(1),) * 3, key=torch.tensor(number))


class Asked:
    """An oracle of a plain function, which counts."""

    def __init__(self, function):
        self.function, self.points = function, []

    def value(self, params, batch):
        self.points.append(params)
        return self.function(params)


def linear(slope):
    return lambda params: params["a"].flatten() @ slope[:6] + params["b"] @ slope[6:] + 3


def zeros():
    return {"a": torch.zeros(2, 3, dtype=torch.float64), "b": torch.zeros(6, dtype=torch.float64)}


def gradient_of(function, *, directions, smoothing=0.01, key=0):
    oracle = Asked(function)
    found = _Differences(oracle, directions, smoothing).gradient(zeros(), step_key(key))
    return torch.cat([found["a"].flatten(), found["b"]]), oracle


# --- the differences -----------------------------------------------------------------------------


def test_with_as_many_directions_as_coordinates_the_gradient_of_a_linear_function_is_exact():
    slope = torch.arange(DIMS, dtype=torch.float64)
    for directions in (DIMS, 3 * DIMS):  # there are never more than coordinates
        found, oracle = gradient_of(linear(slope), directions=directions)
        torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-5)
        assert len(oracle.points) == DIMS + 1


def test_a_gradient_costs_directions_plus_one_queries():
    _, oracle = gradient_of(linear(torch.ones(DIMS, dtype=torch.float64)), directions=5)
    assert len(oracle.points) == 6
    here = torch.cat([oracle.points[0]["a"].flatten(), oracle.points[0]["b"]])
    assert not here.any()  # the first is the point itself, whose loss is reported
    moves = torch.stack([torch.cat([p["a"].flatten(), p["b"]]) for p in oracle.points[1:]]) / 0.01
    eye = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(moves @ moves.T, eye, rtol=0, atol=1e-5)


def test_with_fewer_directions_it_is_the_gradient_on_average():
    slope, draws = torch.linspace(-1, 1, DIMS, dtype=torch.float64), 4000

    def drawn(key):
        differences = _Differences(Asked(linear(slope)), 3, 0.01)
        return trees.flatten(differences.gradient(zeros(), step_key()._replace(key=key)))

    found = vmap(drawn)(torch.arange(draws))
    error = found.std(dim=0) / draws**0.5
    assert ((found.mean(dim=0) - slope).abs() < 4.5 * error).all()


def test_the_gradients_of_one_step_are_along_the_same_directions():
    oracle = Asked(linear(torch.ones(DIMS, dtype=torch.float64)))
    differences = _Differences(oracle, 2, 0.01)
    first, again = (differences.gradient(zeros(), step_key()) for _ in range(2))
    other = differences.gradient(zeros(), step_key(1))
    assert torch.equal(first["b"], again["b"])
    assert not torch.equal(first["b"], other["b"])


def test_parameters_that_are_held_are_asked_with_but_not_moved():
    oracle = Asked(lambda params: params["b"].sum() * params["held"])
    point, held = {"b": torch.ones(3)}, {"held": torch.tensor(2.0)}
    found = _Differences(oracle, 3, 0.5).gradient(point, step_key(), None, held)
    assert list(found) == ["b"]
    torch.testing.assert_close(found["b"], torch.full((3,), 2.0), rtol=1e-4, atol=1e-4)


def test_a_base_that_adds_to_the_loss_is_refused():
    strategy, task = zeroth_order(fedld(steps=sgd(0.1))), small_world().task
    model = strategy.broadcast(strategy.init(task.init(1)), 1)
    local = strategy.local_init(model, strategy.client_init(model.params))
    with pytest.raises(InputError, match="zeroth_order: base must be a strategy that adds nothing"):
        strategy.local_step(local, step_key(), PlainOracle(task), model, None)


@pytest.mark.parametrize("values", [{"directions": 0}, {"smoothing": 0.0}])
def test_zeroth_order_refuses_values_out_of_range(values):
    with pytest.raises(InputError, match="zeroth_order: "):
        zeroth_order(fedavg(steps=sgd(0.1)), **values)


# --- whole strategies ----------------------------------------------------------------------------


def run(strategy, dims=8):
    """The models of three rounds on a small problem, in float64."""
    problem = quadratics(dims=dims, population=4, unlikeness=1.0)
    task = replace(problem.task, init=lambda seed: {"x": torch.full((dims,), 0.9).double()})
    scenario = small_world(
        data=problem.data,
        split=problem.split,
        task=task,
        strategy=strategy,
        plan=batch_plans.shuffled_epochs(epochs=5, batch_size=1),
        aggregator=mean("uniform"),
        population=4,
        cohort=4,
    )
    return [model["x"] for model in run_by_hand(scenario, rounds=3).models]


@pytest.mark.parametrize(
    "base",
    [
        fedavg(steps=sgd(0.05)),
        fedprox(steps=sgd(0.05), mu=1.0),
        scaffold(steps=sgd(0.05)),
        scaffold(steps=boxed(adam(0.01), 0, 1)),
        sharp(fedavg(steps=sgd(0.05)), rho=0.01),
    ],
    ids=lambda base: base.name,
)
def test_with_a_direction_for_each_coordinate_it_is_its_base_up_to_smoothing(base):
    whole = zeroth_order(base, directions=8, smoothing=1e-6)
    for ours, theirs in zip(run(whole), run(base), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# --- Adam, and steps within a box ----------------------------------------------------------------


def test_a_zero_gradient_does_not_move_adam():
    point = {"x": torch.tensor([0.3])}
    rule = adam(0.1)
    moved, _ = rule.step(rule.init(point, torch.tensor(1.0)), point, lambda at: {"x": 0 * at["x"]})
    assert torch.equal(moved["x"], point["x"])


def test_a_boxed_step_ends_at_the_nearest_point_of_the_box():
    rule = boxed(sgd(1.0), -1, 2)
    point = {"x": torch.tensor([0.5, 0.5, 0.5])}
    slope = {"x": torch.tensor([5.0, -5.0, 0.25])}
    moved, _ = rule.step(rule.init(point, torch.tensor(1.0)), point, lambda at: slope)
    assert moved["x"].tolist() == [-1, 2, 0.25]
    with pytest.raises(InputError, match="boxed: low must be below high, 0; got 1"):
        boxed(sgd(1.0), 1, 0)


@pytest.mark.parametrize("rule", [adam(0.1), boxed(sgd(0.1), 0, 1)], ids=lambda rule: rule.name)
def test_a_rule_without_a_reach_is_refused_where_it_is_divided_by(rule):
    with pytest.raises(InputError, match="counted: steps must be a rule whose moves are linear"):
        counted(rule)
    with pytest.raises(InputError, match="counted: steps"):
        fedcm(steps=rule)


def test_for_plain_sgd_the_mean_gradient_from_the_reach_and_from_the_sum_are_equal():
    seen, means = [], []
    for rule in (sgd(0.125), replace(sgd(0.125), reach=None)):
        watched, mean_of = averaged(rule)
        point = start = {"x": torch.tensor([1.0, -3.0], dtype=torch.float64)}
        state = watched.init(point, torch.tensor(1.0))
        for _ in range(6):
            seen.append(2 * point["x"])
            point, state = watched.step(state, point, lambda at: {"x": 2 * at["x"]})
        means.append(mean_of(state, {"x": point["x"] - start["x"]})["x"])
    torch.testing.assert_close(means[0], means[1], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(means[1], torch.stack(seen[6:]).mean(dim=0))


def test_with_adam_scaffolds_controls_are_mean_gradients_and_not_mean_signs():
    """Gradients are 1e-3 here and Adam's moves 1e-2: a control made of moves would be far off."""
    rule, slope = adam(0.01), {"x": torch.tensor([1e-3, -2e-3])}
    strategy = scaffold(steps=rule)
    server = strategy.init({"x": torch.zeros(2)})
    guide, client = strategy.broadcast(server, 1), strategy.client_init({"x": torch.zeros(2)})
    local = strategy.local_init(guide, client)

    class Constant:
        def gradient(self, params, batch, penalty=None, held=None):
            return slope

    for _ in range(4):
        local = strategy.local_step(local, step_key(), Constant(), guide, client)
    _, after = strategy.local_end(local, guide, client)
    np.testing.assert_allclose(after.control["x"], slope["x"], rtol=1e-6)
