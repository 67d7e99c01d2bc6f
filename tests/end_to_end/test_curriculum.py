"""Curricula of examples and of clients (arXiv:2212.12712)."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from fedsim.core.errors import InputError
from fedsim.core.rng import Purpose, client_keys
from fedsim.core.sampling import Draw
from fedsim.core.settings import Settings
from fedsim.flower.grid import in_process
from fedsim.server.round import begin, plan_round
from fedsim.server.setup import check_scenario, prepare
from fedsim.testing import direct
from fedsim.testing.world import EMPTY, SIZES, model_after, over_grid, over_wire, world
from strategies import batch_plans, fedavg, fedspeed, keeping_last, moon, scaffold
from strategies.batch_plans import data_curriculum
from strategies.client_selection import client_curriculum
from strategies.step_rules import sgd
from tests.helpers.worlds import small_world
from tests.strategies.test_strategies import assert_same, run

# --- the order of examples -----------------------------------------------------------------------


def schedule(plan, counts, scores=None, seed=1):
    keys = client_keys(seed, Purpose.BATCHES, 1, torch.arange(len(counts)))
    if scores is not None:
        wide = max(counts)
        scores = torch.tensor([list(row) + [math.nan] * (wide - len(row)) for row in scores])
    return plan.schedule(torch.tensor(counts), keys, 1, scores)


def passes_of(steps, sizes):
    """The examples of each pass, cut by the sizes that the passes should have."""
    flat = steps[steps >= 0].tolist()
    assert len(flat) == sum(sizes)
    ends = np.cumsum(sizes)
    return [flat[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def pool_sizes(count, batch_size, epochs, full_at=0.8, start=0.2):
    """The authors' loop: a linear pace, asked at each step that begins a pass."""
    planned, step, sizes = (count // batch_size + 1) * epochs, 0, []
    while step < planned:
        open_ = start * count + (1 - start) * count * step / (full_at * planned)
        sizes.append(min(count, max(int(open_), 32)))
        step += math.ceil(sizes[-1] / batch_size)
    return sizes


def test_the_pool_is_the_easiest_examples_and_grows_to_all():
    count = 200
    plan = data_curriculum(epochs=6, batch_size=10, start=0.2, full_at=0.5)
    scores = [[float((37 * i) % count) for i in range(count)]]
    (steps,) = schedule(plan, [count], scores)
    sizes = pool_sizes(count, 10, 6, full_at=0.5)
    assert (sizes[0], sizes[-1]) == (40, count)
    for pool in passes_of(steps, sizes):
        assert sorted(int(scores[0][i]) for i in pool) == list(range(len(pool)))


def test_anti_has_the_hardest_first():
    plan = data_curriculum(epochs=4, batch_size=10, order="anti")
    (steps,) = schedule(plan, [100], [[float(i) for i in range(100)]])
    first = steps[:4].flatten()  # max(20, 32) examples in four batches
    assert sorted(first[first >= 0].tolist()) == list(range(68, 100))


def test_every_pass_uses_each_example_of_its_pool_exactly_once_for_clients_of_all_sizes():
    plan = data_curriculum(epochs=3, batch_size=7)
    counts = [1, 30, 64, 100]
    scores = [list(np.random.default_rng(n).normal(size=n)) for n in counts]
    steps = schedule(plan, counts, scores)
    for count, own in zip(counts, steps, strict=True):
        taken = int((own >= 0).any(dim=1).sum())
        assert taken == plan.num_steps(count)
        assert not (own[taken:] >= 0).any()
        for pool in passes_of(own, pool_sizes(count, 7, 3)):
            assert len(set(pool)) == len(pool)


def test_a_clients_schedule_does_not_depend_on_the_others():
    plan = data_curriculum(epochs=3, batch_size=7)
    scores = [list(np.random.default_rng(n).normal(size=n)) for n in (50, 90)]
    together = schedule(plan, [50, 90], scores)
    alone = schedule(plan, [50], scores[:1])
    assert torch.equal(together[0][: alone.shape[1]], alone[0])


def test_with_start_one_all_examples_are_used_in_every_pass():
    plan = data_curriculum(epochs=2, batch_size=10, start=1.0, order="random")
    (steps,) = schedule(plan, [40])
    passes = passes_of(steps, pool_sizes(40, 10, 2, start=1.0))
    assert all(sorted(pool) == list(range(40)) for pool in passes)


def test_equal_scores_are_ordered_at_random():
    """By index, a pool of a client whose data are sorted by class would have one class."""
    plan = data_curriculum(epochs=1, batch_size=40, start=0.4)
    (steps,) = schedule(plan, [100], [[0.0] * 100])
    pool = steps[0][steps[0] >= 0]
    assert 20 < float(pool.float().mean()) < 80
    assert not torch.equal(pool.sort().values, torch.arange(len(pool)))


def test_an_example_whose_score_is_not_a_number_comes_last():
    for order in ("curriculum", "anti"):
        plan = data_curriculum(epochs=4, batch_size=40, order=order)
        scores = [[math.nan if i < 10 else float(i) for i in range(100)]]
        (steps,) = schedule(plan, [100], scores)
        assert not set(range(10)) & set(steps[0].tolist())


# --- scoring -------------------------------------------------------------------------------------


def plan_of(**changes):
    return data_curriculum(**({"epochs": 3, "batch_size": 8} | changes))


def test_scores_are_the_losses_of_the_received_model():
    prepared = prepare(small_world(sizes=(50, 40), cohort=2, plan=plan_of()), Settings(width=2))
    held = begin(prepared)
    sent = prepared.scenario.strategy.broadcast(held.strategy, 1)
    counts = torch.tensor([50, 40])
    got = prepared.trainer._score_examples(
        torch.tensor([0, 1]), counts, sent, prepared.client_template
    )
    task, train = prepared.scenario.task, prepared.dealt.dataset.train
    for client, count in enumerate((50, 40)):
        rows = prepared.dealt.owned.of(client)
        logits = task.predict(sent.params, train.x[rows])
        torch.testing.assert_close(got[client, :count], task.loss_of(logits, train.y[rows]))


@pytest.mark.parametrize(
    ("scoring", "strategy"),
    [
        ("global", fedavg(steps=sgd(0.1))),
        ("local", keeping_last(fedavg(steps=sgd(0.1)))),
        ("both", moon(steps=sgd(0.1))),
        ("both", keeping_last(scaffold(steps=sgd(0.1)))),
        ("global", fedspeed(steps=sgd(0.1))),
    ],
)
def test_width_grid_and_wire_agree_under_a_curriculum(scoring, strategy):
    sizes = {"plan": plan_of(scoring=scoring), "selection": client_curriculum()}
    reference = model_after(world(strategy, width=1, **sizes), direct)
    stacked = model_after(world(strategy, width=7, **sizes), direct)
    with in_process():
        grid = model_after(world(strategy, **sizes), over_grid)
        wire = model_after(world(strategy, width=1, **sizes), over_wire)
    for other in (stacked, grid, wire):
        assert_same(reference, other, 1e-5)


def test_keeping_last_changes_nothing_but_the_memory():
    _, plain = run(strategy=fedavg(steps=sgd(0.1)), rounds=4)
    _, keeping = run(strategy=keeping_last(fedavg(steps=sgd(0.1))), rounds=4)
    assert_same(plain, keeping)


def test_a_local_curriculum_needs_clients_that_keep_their_last_model():
    for scoring in ("local", "both"):
        scenario = small_world(plan=plan_of(scoring=scoring))
        with pytest.raises(InputError, match=r"strategy must keep each client's last model"):
            check_scenario(scenario, Settings())
    check_scenario(
        small_world(plan=plan_of(scoring="local"), strategy=moon(steps=sgd(0.1))), Settings()
    )


def test_an_expert_scores_with_its_own_parameters():
    with pytest.raises(InputError, match="expert must be given"):
        plan_of(scoring="expert")
    world_ = small_world(sizes=(50, 40), cohort=2)
    expert = world_.task.init(99)
    plan = plan_of(scoring="expert", expert=expert)
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    y = torch.arange(9) % 3
    got = plan.scores(world_.task, None, None, x, y)
    torch.testing.assert_close(got, world_.task.loss_of(world_.task.predict(expert, x), y))
    errors = plan_of(scoring="expert", expert=expert, errors=True).scores(
        world_.task, None, None, x, y
    )
    assert set(errors.tolist()) <= {0.0, 1.0}


def test_for_clients_below_the_floor_of_32_a_curriculum_is_all_their_data():
    plan = plan_of(epochs=1, batch_size=32)
    assert plan.num_steps(20) == batch_plans.shuffled_epochs(epochs=1, batch_size=32).num_steps(20)


# --- the order of clients ------------------------------------------------------------------------


def drawing(round_num, scores, *, population=10, cohort=3, rounds=20, asked=None):
    def ask():
        if asked is not None:
            asked.append(round_num)
        return torch.tensor(scores)

    stream = np.random.default_rng(round_num)
    return Draw(
        population=population,
        cohort=cohort,
        rounds=rounds,
        round_num=round_num,
        stream=stream,
        scores=ask,
    )


def test_the_groups_of_one_pool_are_disjoint_and_together_they_are_the_pool():
    choice, asked = client_curriculum(start=0.7, full_at=1.0), []
    state, groups = choice.init(10), []
    for round_num in range(1, 4):
        group, state = choice.choose(
            state, drawing(round_num, [float(i) for i in range(10)], asked=asked)
        )
        groups.append(group)
    assert [len(group) for group in groups] == [3, 3, 1]  # 7 clients in groups of 3
    assert sorted(client for group in groups for client in group) == list(range(7))  # the easiest
    assert asked == [1]  # once for the whole pool


def test_the_pool_holds_every_client_once_the_fraction_a_of_the_rounds_is_used():
    choice = client_curriculum(start=0.2, full_at=0.5)
    state, seen = choice.init(10), Counter()
    for round_num in range(1, 21):
        group, state = choice.choose(state, drawing(round_num, [float(i) for i in range(10)]))
        assert len(set(group)) == len(group)
        seen.update(group)
    assert set(seen) == set(range(10))
    assert seen[0] > seen[9]  # the easiest came more often


def test_anti_selects_the_hardest_first_and_no_client_without_a_loss():
    scores = [float(i) for i in range(8)] + [math.nan, math.inf]
    group, _ = client_curriculum(order="anti", start=0.3).choose(
        client_curriculum().init(10), drawing(1, scores)
    )
    assert group == [6, 7]  # of nine that answered, int(.3 * 9); infinite is last, not hardest


def test_a_random_order_needs_no_losses():
    asked = []
    client_curriculum(order="random").choose(
        client_curriculum().init(10), drawing(1, [0.0] * 10, asked=asked)
    )
    assert asked == []


def test_the_traffic_of_asking_every_client_for_a_loss_is_counted():
    prepared = world(fedavg(steps=sgd(0.1)), selection=client_curriculum(start=1.0))
    held, exchange = begin(prepared), direct(prepared)
    work = plan_round(prepared, held, 1, {}, exchange)
    model = 4 * sum(value.numel() for value in prepared.initial_params.values())
    assert work.bytes_down == len(SIZES) * model
    assert work.bytes_up == len(SIZES) * 4
    assert EMPTY not in work.clients
