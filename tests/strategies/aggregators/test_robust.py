"""What the papers say of the robust rules and of MoNNA, as sentences."""

import numpy as np
import pytest
import torch
from flwr.server.strategy.aggregate import aggregate_krum
from hypothesis import given, settings
from hypothesis import strategies as draw
from scipy.stats import trim_mean

from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.runs.description import describe
from fedsim.runs.folder import read_metrics
from fedsim.runs.runner import run_prepared
from fedsim.server.round import begin, finish_round
from fedsim.server.setup import prepare
from fedsim.server.transport import Work
from fedsim.testing import direct
from fedsim.training.client_state import ClientStates
from strategies import batch_plans, client_selection, fedavg, monna
from strategies.aggregators import (
    coordinate_median,
    krum,
    multi_krum,
    nearest_neighbours,
    trimmed_mean,
)
from strategies.step_rules import delta_sgd, sgd
from tests.helpers.worlds import combined, points_world, run_by_hand, small_world, updates

F = 2
RULES = [
    coordinate_median(),
    trimmed_mean(byzantine=F),
    krum(byzantine=F),
    multi_krum(byzantine=F),
    nearest_neighbours(byzantine=F),
]
of_every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def given_by(rule, *rows):
    """What a rule makes of vectors, each a whole update."""
    stack = torch.tensor(rows, dtype=torch.float64)
    return combined(rule, {"x": stack}, torch.ones(len(rows))).diff["x"].tolist()


def stacked(seed, count=9):
    return {name: value.double() for name, value in updates(seed, count)[0].items()}


# --- the rules, beside other implementations -----------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_the_median_is_numpys_coordinate_by_coordinate(count):
    stack = stacked(0, count)
    found = combined(coordinate_median(), stack, torch.ones(count)).diff
    for name, value in stack.items():
        np.testing.assert_array_equal(found[name], np.median(value, axis=0))


@pytest.mark.parametrize("f", [0, 1, 4])
def test_the_trimmed_mean_is_scipys_coordinate_by_coordinate(f):
    stack = stacked(0)
    found = combined(trimmed_mean(byzantine=f), stack, torch.ones(9)).diff
    for name, value in stack.items():
        np.testing.assert_allclose(found[name], trim_mean(value, (f + 0.5) / 9, axis=0), 1e-12)


@pytest.mark.parametrize("f", [0, 1, 3])
@pytest.mark.parametrize("keep", [1, 2, 6])
def test_krum_and_multi_krum_choose_as_flowers_where_it_keeps_to_the_paper(f, keep):
    for seed in range(5):
        stack = stacked(seed)
        theirs = aggregate_krum(
            [([value[i].numpy() for value in stack.values()], 1) for i in range(9)], f, keep
        )
        found = combined(multi_krum(byzantine=f, keep=keep), stack, torch.ones(9)).diff
        for ours, other in zip(found.values(), theirs, strict=True):
            np.testing.assert_allclose(ours, other, 1e-9)


# --- the rules, by hand --------------------------------------------------------------------------


def test_krum_picks_the_one_with_the_nearest_neighbours():
    # s = 5, f = 1: scores are squared distances to the 2 nearest. Of the points on a line
    # 0, 1, 3, 7, 100:  1 + 9, 1 + 4, 4 + 9, 16 + 36, far.
    assert given_by(krum(byzantine=1), [0.0], [1.0], [3.0], [7.0], [100.0]) == [1.0]
    # two of them: scores 5 and 10
    assert given_by(multi_krum(byzantine=1, keep=2), [0.0], [1.0], [3.0], [7.0], [100.0]) == [0.5]


def test_nearest_neighbours_averages_those_nearest_to_the_median():
    # the median is (1, 1); squared distances 2, 1, 0, 5, 2e18: all but the last
    rows = [0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [2.0, 3.0], [1e9, 1e9]
    assert given_by(nearest_neighbours(byzantine=1), *rows) == [1.0, 1.0]
    assert given_by(nearest_neighbours(byzantine=2), *rows) == [2 / 3, 1 / 3]


def test_distances_are_over_all_tensors_together():
    whole = stacked(0)
    flat = {"x": torch.cat([value.flatten(1) for value in whole.values()], dim=1)}
    for rule in RULES:
        parts = combined(rule, whole, torch.ones(9)).diff
        one = combined(rule, flat, torch.ones(9)).diff["x"]
        torch.testing.assert_close(torch.cat([part.flatten() for part in parts.values()]), one)


def test_what_krum_gives_is_one_of_the_updates_bit_for_bit():
    stack, weights = updates(4)
    found = combined(krum(byzantine=F), stack, weights).diff
    assert any(all(torch.equal(found[k], stack[k][i]) for k in stack) for i in range(9))


def test_with_m_equal_to_one_multi_krum_is_krum():
    stack, weights = updates(5)
    one = combined(multi_krum(byzantine=F, keep=1), stack, weights).diff
    other = combined(krum(byzantine=F), stack, weights).diff
    assert all(torch.equal(one[name], other[name]) for name in stack)


@pytest.mark.parametrize("rule", [trimmed_mean(byzantine=0), nearest_neighbours(byzantine=0)])
def test_with_f_equal_to_zero_it_is_the_plain_mean(rule):
    stack, weights = updates(6)
    found = combined(rule, stack, weights).diff
    assert all(torch.equal(found[name], value.mean(dim=0)) for name, value in stack.items())


# --- the rules under attack ----------------------------------------------------------------------


@of_every_rule
@pytest.mark.parametrize("far", [1e9, -1e30])
def test_one_outlier_is_excluded(rule, far):
    honest = updates(7, count=8)[0]
    stack = {name: torch.cat([torch.full_like(v[:1], far), v]) for name, v in honest.items()}
    found = combined(rule, stack, torch.ones(9)).diff
    for name, value in honest.items():
        assert (found[name] >= value.amin(dim=0)).all()
        assert (found[name] <= value.amax(dim=0)).all()


BYZANTINE = draw.lists(draw.floats(-1e6, 1e6), min_size=3, max_size=3)


@given(draw.integers(0, 2**31), draw.lists(BYZANTINE, min_size=1, max_size=F))
@settings(max_examples=50, deadline=None)
def test_each_coordinate_is_between_two_honest_ones(seed, byzantine):
    honest = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    stack = {"x": torch.cat([torch.tensor(byzantine), honest])}
    for rule in (coordinate_median(), trimmed_mean(byzantine=F)):
        found = combined(rule, stack, torch.ones(5 + len(byzantine))).diff["x"]
        assert (found >= honest.amin(dim=0) - 1e-6).all()
        assert (found <= honest.amax(dim=0) + 1e-6).all()


@given(draw.integers(0, 2**31), draw.lists(BYZANTINE, min_size=1, max_size=F))
@settings(max_examples=50, deadline=None)
def test_nearest_neighbours_goes_no_further_from_the_median_than_an_honest_update(seed, byzantine):
    honest = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    stack = {"x": torch.cat([torch.tensor(byzantine), honest])}
    weights = torch.ones(5 + len(byzantine))
    middle = combined(coordinate_median(), stack, weights).diff["x"]
    found = combined(nearest_neighbours(byzantine=F), stack, weights).diff["x"]
    assert (found - middle).norm() <= (honest - middle).norm(dim=1).max() + 1e-6


# --- too few -------------------------------------------------------------------------------------


def test_a_round_with_too_few_replies_leaves_server_and_clients_as_they_are_and_says_so():
    rule = krum(byzantine=1)  # needs 5
    world = small_world(sizes=(4,) * 6, cohort=6, aggregator=rule, strategy=monna(steps=sgd(0.1)))
    prepared = prepare(world, Settings(width=6, device="cpu"))
    held, states = begin(prepared), ClientStates(prepared.client_template)
    exchange, broadcast = direct(prepared, states), world.strategy.broadcast(held.strategy, 1)

    def asked(clients):
        work = Work(round_num=1, broadcast=broadcast, clients=clients, accepted={})
        return finish_round(prepared, held, work, exchange(work))

    few = asked([0, 2, 3, 5])
    reason = "krum(1) needs 5 updates and got 4"
    assert few.rejected == dict.fromkeys([0, 2, 3, 5], reason)
    assert few.accepted == []
    assert few.train_loss is None
    assert few.state.strategy is held.strategy
    assert not any(value.any() for value in states.fetch([0, 2], {}).own.momentum.values())
    assert len(asked([0, 1, 2, 3, 5]).accepted) == 5


def test_a_run_of_poisson_cohorts_goes_on_through_rounds_with_too_few(tmp_path, watcher):
    world = {"selection": client_selection.poisson(), "sizes": (4,) * 8, "cohort": 5}
    scenario = small_world(**world, aggregator=krum(byzantine=1), rounds=12)
    prepared = prepare(scenario, Settings(width=8, device="cpu"))
    described = describe("small", {}, prepared, "cohort")
    run_prepared(prepared, described, [watcher], out=tmp_path / "run", resume=False)
    rows = read_metrics(tmp_path / "run")
    short = [row for row in rows if 0 < row["cohort"] < 5]
    assert short  # P(fewer than 5 of 8 at 5/8 each) = 0.44
    assert all(row["accepted"] == 0 for row in short)
    assert all(len(row["rejected"]) == row["cohort"] for row in short)
    assert any(row["accepted"] == row["cohort"] for row in rows)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trimmed_mean(byzantine=-1), "trimmed_mean: byzantine must be at least 0; got -1"),
        (lambda: krum(byzantine=-1), "krum: byzantine must be at least 0"),
        (lambda: multi_krum(byzantine=-1), "multi_krum: byzantine must be at least 0"),
        (lambda: multi_krum(byzantine=1, keep=0), "multi_krum: keep must be at least 1; got 0"),
        (lambda: nearest_neighbours(byzantine=-1), "nearest_neighbours: byzantine must be at leas"),
        (lambda: monna(steps=sgd(0.1), beta=1.0), r"monna: beta must be in \[0, 1\); got 1.0"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- MoNNA ---------------------------------------------------------------------------------------

POINTS = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_with_beta_equal_to_zero_monna_equals_fedavg():
    ours, other = (
        run_by_hand(small_world(strategy=strategy), rounds=3).models[-1]
        for strategy in (monna(steps=sgd(0.1), beta=0.0), fedavg(steps=sgd(0.1)))
    )
    for name in ours:
        torch.testing.assert_close(ours[name], other[name])


def test_a_momentum_is_the_exponential_average_of_all_gradients_over_rounds_too():
    lr, beta, steps = 1 / 16, 0.75, 3  # powers of two: exact in the float32 of a learning rate
    plan = batch_plans.random_batches(steps=steps, batch_size=1)
    world = points_world(POINTS, strategy=monna(steps=sgd(lr), beta=beta), plan=plan)
    ended = run_by_hand(world, rounds=2)
    x, momenta = torch.zeros(3, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
    for _ in range(2):
        y = x.expand(4, 3)
        for _ in range(steps):
            momenta = beta * momenta + (1 - beta) * (y - POINTS[:, 0])  # the gradient of a client
            y = y - lr * momenta
        x = y.mean(dim=0)
    torch.testing.assert_close(ended.models[-1]["x"], x)


def test_monna_asks_for_one_gradient_a_step_unless_the_step_rule_wants_more():
    params = {"x": torch.zeros(3)}
    for rule, asked in ((sgd(0.1), 4), (delta_sgd(), 7)):  # its first step asks twice at y
        strategy, oracle = monna(steps=rule), Counted()
        model = strategy.broadcast(strategy.init(params), 1)
        client = strategy.client_init(params)
        local = strategy.local_init(model, client)
        for _ in range(4):
            local = strategy.local_step(local, None, oracle, model, client)
        assert oracle.asked == asked


class Counted:
    """The oracle of 1/2 ||x - 1||^2."""

    asked = 0

    def gradient(self, params, batch, penalty=None, held=None):
        self.asked += 1
        return {"x": params["x"] - 1}
