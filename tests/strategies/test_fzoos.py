"""FZooS (arXiv:2308.04077, Algorithm 2) on known functions."""

from dataclasses import replace

import pytest
import torch

from fedsim.core import trees
from fedsim.core.batch import Batch
from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.core.updates import Released
from fedsim.models.black_box import quadratics
from fedsim.server.setup import check_scenario
from fedsim.training.oracle import PLAIN, PlainOracle
from strategies import batch_plans, fedavg, fzoos, scaffold, zeroth_order
from strategies.aggregators import mean, principal_directions
from strategies.shared import gaussian_process
from strategies.shared.surrogate import Surrogate
from strategies.step_rules import adam, boxed, sgd
from tests.helpers.worlds import run_by_hand, small_world

DIMS, LOOKS, ACTIVE = 6, 2, 3
SMALL = {"looks": LOOKS, "active": ACTIVE, "candidates": 12}
SURROGATE = Surrogate(memory=40, features=64)


def small(**changes):
    own = {name: changes.pop(name) for name in vars(SURROGATE) if name in changes}
    surrogate = replace(SURROGATE, **own)
    return fzoos(**({"steps": adam(0.02), "surrogate": surrogate} | SMALL | changes))


def world(strategy, *, steps, problem=None, **changes):
    """A problem of the quadratic family; a step is one of the plan's."""
    problem = problem or quadratics(dims=DIMS, population=4, unlikeness=2.0)
    given = {
        "data": problem.data,
        "split": problem.split,
        "task": problem.task,
        "strategy": strategy,
        "plan": batch_plans.shuffled_epochs(epochs=steps, batch_size=1),
        "aggregator": mean("uniform"),
        "population": problem.population,
        "cohort": problem.population,
    }
    return small_world(**(given | changes))


class Bowl:
    """A client's function, |x - c|^2, that records its queries and can fail to answer."""

    def __init__(self, centre=0.2, answer=lambda value: value):
        self.centre, self.answer, self.points = centre, answer, []

    def value(self, params, batch):
        self.points.append(params["x"])
        return self.answer((params["x"] - self.centre).square().sum())


def batch(number):
    return Batch(*(torch.zeros(1),) * 3, key=torch.tensor(number))


def work(strategy, oracle, steps, *, start=0.7, client=None, summary=None, first=0):
    """One client's round by hand: every local state, the diff, and its memory afterwards."""
    params = {"x": torch.full((DIMS,), start)}
    guide = strategy.broadcast(strategy.init(params), 1)
    if summary is not None:
        guide = guide._replace(summary=summary)
    client = strategy.client_init(params) if client is None else client
    states = [strategy.local_init(guide, client)]
    for number in range(first, first + steps):
        states.append(strategy.local_step(states[-1], batch(number), oracle, guide, client))
    return states, *strategy.local_end(states[-1], guide, client)


# --- queries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("looks", "active", "moves"), [(2, 3, 4), (0, 5, 3), (1, 1, 1)])
def test_a_client_makes_t_plus_looks_times_one_plus_active_queries(looks, active, moves):
    oracle = Bowl()
    work(small(looks=looks, active=active), oracle, looks + moves)
    n_end = looks * (1 + active)
    assert len(oracle.points) == moves * (1 + active) + n_end


def test_in_a_whole_run_no_client_makes_more_queries(monkeypatch):
    asked = []

    def counting(task, facts, memory):
        oracle = PlainOracle(task)
        asked.append(oracle.losses)
        return oracle

    monkeypatch.setattr("fedsim.server.setup.PLAIN", replace(PLAIN, make=counting))
    run_by_hand(world(small(), steps=5), rounds=3, width=1)
    assert sum(map(len, asked)) == 3 * 4 * 5 * (1 + ACTIVE)  # rounds, clients, steps


def test_looks_do_not_move_and_fill_the_memory_with_places_near_the_received_point():
    states, *_ = work(small(), Bowl(), LOOKS + 1)
    for state in states[: LOOKS + 1]:
        assert torch.equal(state.params["x"], torch.full((DIMS,), 0.7))
        assert not trees.flatten(state.rule.m).any()
    assert float(state.rule.taken) == 0
    known = states[LOOKS].values.isfinite()
    assert int(known.sum()) == LOOKS * (1 + ACTIVE)
    assert ((states[LOOKS].points[known] - 0.7).abs() <= 0.01 + 1e-6).all()
    assert not torch.equal(states[-1].params["x"], states[0].params["x"])


def test_a_move_queries_the_new_point_first_and_then_places_near_it():
    oracle = Bowl()
    states, *_ = work(small(radius=0.02), oracle, LOOKS + 1)
    moved, *near = oracle.points[-1 - ACTIVE :]
    assert torch.equal(moved, states[-1].params["x"])
    away = (torch.stack(near) - moved).abs()
    assert (away <= 0.02 + 1e-6).all()
    assert (away.amax(dim=1) > 0.005).all()


def test_no_query_and_no_step_leaves_the_bounds():
    oracle = Bowl(centre=-3.0)
    states, *_ = work(small(steps=sgd(0.5), radius=0.3), oracle, LOOKS + 3, start=0.05)
    asked = torch.stack(oracle.points)
    assert float(asked.min()) == 0
    assert float(states[-1].params["x"].max()) == 0  # the nearest point of the box
    free = Bowl(centre=-3.0)
    work(small(steps=sgd(0.5), bounds=None), free, LOOKS + 3, start=0.05)
    assert float(torch.stack(free.points).min()) < -0.5


def test_a_client_keeps_its_most_recent_points():
    oracle = Bowl()
    *_, memory = work(small(memory=10), oracle, 6)
    kept = {tuple(point.tolist()) for point in memory.points}
    assert kept == {tuple(point.tolist()) for point in oracle.points[-8:]} | (
        kept & {tuple(point.tolist()) for point in oracle.points[-12:-8]}
    )
    assert len(kept) == 10
    values = (memory.points - 0.2).square().sum(dim=1)
    torch.testing.assert_close(memory.values, values)


# --- the correction ------------------------------------------------------------------------------


def after_one_round(strategy):
    """The memory of a client after one round."""
    *_, memory = work(strategy, Bowl(), LOOKS + 3)
    return memory


def test_a_move_follows_the_surrogates_gradient_and_the_faded_correction():
    """Line 5, written out for the first and the second move, with steps of plain SGD."""
    for fade, weights in ((True, (1.0, 1 / 2)), (False, (1.0, 1.0))):
        strategy = small(steps=sgd(0.01), correction=0.6, fade=fade, bounds=None)
        client, other = after_one_round(strategy), torch.randn(64)
        states, *_ = work(
            strategy, Bowl(), LOOKS + 2, client=client, summary=other, start=0.5, first=50
        )
        shared = gaussian_process.draw_features(DIMS, 64, 1.0, 0, torch.device("cpu"))
        for state, after, weight in zip(states[LOOKS:], states[LOOKS + 1 :], weights, strict=False):
            x = state.params["x"]
            seen = gaussian_process.fit(
                state.points, state.values, origin=x, length_scale=1.0, noise=1e-6
            )
            slopes = [
                gaussian_process.feature_gradient(shared, w, x) for w in (other, client.summary)
            ]
            step = gaussian_process.mean_gradient(seen, x) + 0.6 * weight * (slopes[0] - slopes[1])
            torch.testing.assert_close(after.params["x"], (x - 0.01 * step).float())


def test_clients_with_the_same_memory_are_not_corrected():
    strategy, without = small(), small(correction=0.0)
    client = after_one_round(strategy)
    corrected, *_ = work(strategy, Bowl(), 6, client=client, summary=client.summary)
    plain, *_ = work(without, Bowl(), 6, client=client, summary=client.summary)
    assert torch.equal(corrected[-1].params["x"], plain[-1].params["x"])


def test_without_a_correction_a_clients_work_does_not_depend_on_the_others():
    strategy = small(correction=0.0)
    client = after_one_round(strategy)
    ends = [
        work(strategy, Bowl(), 6, client=client, summary=summary)[0][-1].params["x"]
        for summary in (torch.zeros(64), torch.randn(64))
    ]
    assert torch.equal(*ends)


def test_a_client_that_never_sent_a_summary_is_not_corrected():
    ends = [
        work(small(), Bowl(), 6, summary=summary)[0][-1].params["x"]
        for summary in (torch.zeros(64), torch.randn(64))
    ]
    assert torch.equal(*ends)


def test_the_servers_summary_is_the_mean_over_the_cohort():
    scenario = world(small(), steps=5, cohort=3)
    ended = run_by_hand(scenario, rounds=2)
    accepted = dict.fromkeys(ended.outcome.accepted, 2)
    assert len(accepted) == 3
    sent = ended.states.fetch(ended.outcome.accepted, accepted).own.summary
    torch.testing.assert_close(ended.outcome.state.strategy.summary, sent.mean(dim=0))


def test_the_server_moves_to_the_mean_of_the_clients_last_points():
    strategy = small()
    server = strategy.init({"x": torch.full((DIMS,), 0.5)})
    diff = {"x": torch.linspace(-0.1, 0.1, DIMS), "surrogate/weights": torch.ones(64)}
    after = strategy.update(server, Released(diff, share=1.0))
    torch.testing.assert_close(after.params["x"], 0.5 + diff["x"])
    assert torch.equal(after.summary, torch.ones(64))


# --- faults --------------------------------------------------------------------------------------


def test_a_query_without_a_finite_answer_is_dropped():
    turns = iter(range(1000))
    holed = Bowl(answer=lambda value: value * (torch.nan if next(turns) % 4 == 1 else 1))
    states, diff, memory = work(small(), holed, 6)
    assert int(memory.values.isfinite().sum()) == 6 * 3
    assert torch.isfinite(trees.flatten(diff)).all()
    assert float(states[-1].params["x"].mean()) < 0.7  # it moves downhill all the same


def test_a_client_without_any_finite_answer_is_left_out():
    _, diff, _ = work(small(), Bowl(answer=lambda value: value * torch.nan), 6)
    assert not trees.finite_rows(trees.map_leaves(diff, lambda part: part.unsqueeze(0))).any()


def test_where_all_values_are_equal_no_client_moves():
    states, diff, _ = work(small(), Bowl(answer=lambda value: 0 * value + 3), 6)
    assert torch.equal(states[-1].params["x"], states[0].params["x"])
    assert not diff["surrogate/weights"].any()


def test_a_plan_without_a_step_that_moves_is_refused():
    with pytest.raises(InputError, match="fzoos: the plan must have more steps than looks, 2; got"):
        check_scenario(world(small(), steps=2), Settings())


def test_an_aggregator_that_is_no_mean_is_refused():
    scenario = world(small(), steps=4, aggregator=principal_directions())
    with pytest.raises(InputError, match="fzoos: aggregator must be a mean"):
        check_scenario(scenario, Settings())


@pytest.mark.parametrize(
    "values",
    [
        {"active": 0},
        {"looks": -1},
        {"candidates": 3},
        {"memory": 3},
        {"radius": 0.0},
        {"correction": -0.5},
    ],
    ids=str,
)
def test_fzoos_refuses_values_out_of_range(values):
    with pytest.raises(InputError, match=f"fzoos: {next(iter(values))} must be "):
        small(**values)


@pytest.mark.parametrize(
    "values",
    [{"memory": 0}, {"features": 0}, {"length_scale": -1.0}, {"noise": 0.0}],
    ids=str,
)
def test_a_surrogate_refuses_values_out_of_range(values):
    with pytest.raises(InputError, match=f"surrogate: {next(iter(values))} must be "):
        Surrogate(**values)


# --- what it is for ------------------------------------------------------------------------------


def test_on_quadratics_it_ends_lower_than_finite_differences_after_as_many_queries():
    """d = 60, C = 2: 54 queries a round for 9 steps; finite differences pay 105 for 5 steps."""
    budget, ends = 4 * 105, {}
    rule = boxed(adam(0.02), 0, 1)
    arms = {
        "fzoos": (fzoos(steps=adam(0.02), surrogate=Surrogate(features=500, memory=100)), 9, 54),
        "fedzo": (zeroth_order(fedavg(steps=rule)), 5, 105),
        "scaffold": (zeroth_order(scaffold(steps=rule)), 5, 105),
    }
    problem = quadratics(dims=60, population=5, unlikeness=2.0)
    for name, (strategy, steps, price) in arms.items():
        scenario = world(strategy, steps=steps, problem=problem)
        ends[name] = []
        for seed in (1, 2):
            ended = run_by_hand(scenario, rounds=budget // price, seed=seed)
            x = ended.models[-1]
            ends[name].append(float(problem.task.loss(x, whole(problem)).mean()) - problem.floor)
    for name in ("fedzo", "scaffold"):
        for ours, theirs in zip(ends["fzoos"], ends[name], strict=True):
            assert ours < 0.1 * theirs, ends


def whole(problem):
    train = problem.data.load(None).train
    return Batch(train.x, train.y, torch.ones(len(train.y)), torch.tensor(0))
