"""The battery that every aggregator goes through; joining it is one line in RULES."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw

from fedsim.core import trees
from fedsim.core.errors import InputError
from fedsim.core.sampling import Everyone
from fedsim.core.settings import Settings
from fedsim.core.updates import Bounded
from fedsim.server.setup import check_scenario
from strategies.aggregators import (
    coordinate_median,
    krum,
    mean,
    multi_krum,
    nearest_neighbours,
    principal_directions,
    trimmed_mean,
)
from tests.helpers.worlds import combined, small_world, updates

RULES = [
    mean("examples"),
    mean("uniform"),
    coordinate_median(),
    trimmed_mean(byzantine=2),
    krum(byzantine=2),
    multi_krum(byzantine=2),
    multi_krum(byzantine=1, keep=3),
    nearest_neighbours(byzantine=2),
    principal_directions(),
]
NEEDS = {
    "trimmed_mean(2)": 5,
    "krum(2)": 7,
    "multi_krum(2)": 7,
    "multi_krum(1, keep 3)": 5,
    "nearest_neighbours(2)": 5,
}
ONE_IS_ENOUGH = [
    mean("examples"),
    mean("uniform"),
    coordinate_median(),
    trimmed_mean(byzantine=0),
    nearest_neighbours(byzantine=0),
    principal_directions(),
]
NOT_OF_PRINCIPAL_DIRECTIONS = [rule for rule in RULES if "principal" not in rule.name]
COUNT = 9

of_every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
seeds = given(draw.integers(0, 2**31))
few = settings(max_examples=10, deadline=None)


def same(first, second):
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-4)


@of_every_rule
@seeds
@few
def test_the_order_of_the_updates_does_not_matter(rule, seed):
    stack, weights = updates(seed)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(seed))
    same(
        combined(rule, stack, weights).diff,
        combined(rule, trees.select_rows(stack, order), weights[order]).diff,
    )


@of_every_rule
@seeds
@few
def test_identical_updates_give_that_update(rule, seed):
    stack, weights = updates(seed)
    alike = trees.select_rows(stack, torch.zeros(COUNT, dtype=torch.int64))
    same(combined(rule, alike, weights).diff, {name: v[0] for name, v in stack.items()})


@pytest.mark.parametrize("rule", ONE_IS_ENOUGH, ids=lambda rule: rule.name)
def test_one_update_gives_itself(rule):
    stack, weights = updates(0, count=1)
    same(combined(rule, stack, weights).diff, {name: v[0] for name, v in stack.items()})


@pytest.mark.parametrize("rule", NOT_OF_PRINCIPAL_DIRECTIONS, ids=lambda rule: rule.name)
@seeds
@few
def test_moving_every_update_moves_what_it_gives_by_as_much(rule, seed):
    stack, weights = updates(seed)
    move = {name: value[0] for name, value in updates(seed + 1)[0].items()}
    moved = {name: value + move[name] for name, value in stack.items()}
    same(
        combined(rule, moved, weights).diff,
        trees.add(combined(rule, stack, weights).diff, move),
    )


@of_every_rule
def test_twice_every_update_gives_twice_as_much(rule):
    stack, weights = updates(3)
    same(
        combined(rule, trees.scale(stack, 2.0), weights).diff,
        trees.scale(combined(rule, stack, weights).diff, 2.0),
    )


@of_every_rule
def test_portions_do_not_matter_and_nothing_is_kept_of_their_memory(rule):
    stack, weights = updates(1)
    before = {name: value.clone() for name, value in stack.items()}
    whole = combined(rule, stack, weights)
    for cuts in ((4,), (1, 2, 8), tuple(range(1, COUNT))):
        same(whole.diff, combined(rule, stack, weights, cuts).diff)
    assert all(torch.equal(before[name], stack[name]) for name in stack)


@of_every_rule
def test_it_gives_one_update_of_the_same_shapes_and_type(rule):
    stack, weights = updates(2)
    found = combined(rule, stack, weights).diff
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        name: (value.shape[1:], value.dtype) for name, value in stack.items()
    }


@of_every_rule
def test_nothing_gives_nothing(rule):
    stack, weights = updates(0)
    assert rule.finish(rule.init(stack), Everyone(weights, 0.5)) is None


@of_every_rule
def test_as_many_updates_as_it_needs_are_enough_and_fewer_are_refused_with_the_reason(rule):
    needs = NEEDS.get(rule.name, 1)
    assert not isinstance(combined(rule, *updates(0, count=needs)), str)
    if needs > 1:
        reason = combined(rule, *updates(0, count=needs - 1))
        assert reason == f"{rule.name} needs {needs} updates and got {needs - 1}"


@of_every_rule
def test_a_cohort_of_as_many_as_it_needs_is_accepted_and_a_smaller_one_refused(rule):
    needs = NEEDS.get(rule.name, 1)
    world = {"sizes": (2,) * COUNT, "aggregator": rule}
    check_scenario(small_world(**world, cohort=needs), Settings())
    if needs > 1:
        with pytest.raises(InputError) as error:
            check_scenario(small_world(**world, cohort=needs - 1), Settings())
        assert f"{rule.name}: cohort must be at least {needs}; got {needs - 1}." in str(error.value)


def test_an_aggregator_keeps_no_view_of_what_it_adds():
    aggregator = mean()
    stack = {"w": torch.tensor([[1.0, 3.0], [3.0, 5.0]])}
    total = aggregator.add(
        aggregator.init({"w": torch.zeros(2)}), Bounded(stack, torch.ones(2), 1.0)
    )
    stack["w"].fill_(float("nan"))  # as the next chunk in a worker's slot would
    assert aggregator.finish(total, Everyone(torch.ones(2), 1.0)).diff["w"].tolist() == [2.0, 4.0]
