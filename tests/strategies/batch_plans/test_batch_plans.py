"""In which order and in which batches clients see their examples."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.core.errors import InputError
from strategies import batch_plans
from tests.helpers.keys import SIGMAS, keys_of

COUNTS = st.lists(st.integers(0, 17), min_size=1, max_size=5)
SMALL = st.integers(1, 4)


def scheduled(plan, counts, seed=0):
    """The positions of each client in each step, as nested lists without the padding."""
    steps = plan.schedule(torch.tensor(counts), keys_of(len(counts), seed=seed), 1)
    assert steps.shape[2] == plan.expected(1)
    return [[[p for p in step if p != -1] for step in client] for client in steps.tolist()]


@settings(deadline=None, max_examples=50)
@given(COUNTS, SMALL, SMALL, st.integers(0, 99))
def test_every_example_is_used_once_an_epoch_in_steps_without_gaps(counts, epochs, size, seed):
    plan = batch_plans.shuffled_epochs(epochs=epochs, batch_size=size)
    for count, steps in zip(counts, scheduled(plan, counts, seed), strict=True):
        own = plan.num_steps(count)
        assert own == epochs * math.ceil(count / size)
        assert not any(steps[own:])
        for epoch in range(epochs):
            batches = steps[epoch * own // epochs : (epoch + 1) * own // epochs]
            assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
            assert sorted(itertools.chain(*batches)) == list(range(count))


@settings(deadline=None, max_examples=50)
@given(COUNTS, SMALL, SMALL, st.integers(0, 99))
def test_random_batches_are_full_for_every_client_that_has_an_example(counts, number, size, seed):
    plan = batch_plans.random_batches(steps=number, batch_size=size)
    for count, steps in zip(counts, scheduled(plan, counts, seed), strict=True):
        assert plan.num_steps(count) == (number if count else 0)
        assert [len(step) for step in steps if step] == [size] * plan.num_steps(count)
        assert all(0 <= position < count for step in steps for position in step)


PLANS = [
    batch_plans.shuffled_epochs(epochs=3, batch_size=4),
    batch_plans.random_batches(steps=5, batch_size=4),
]


def by_name(plan):
    return plan.name


@pytest.mark.parametrize("plan", PLANS, ids=by_name)
def test_a_clients_schedule_does_not_depend_on_the_other_clients(plan):
    counts, keys = torch.tensor([3, 0, 17, 8, 1]), keys_of(5)
    together = plan.schedule(counts, keys, 1)
    for i in range(5):
        alone = plan.schedule(counts[i : i + 1], keys[i : i + 1], 1)[0]
        assert torch.equal(together[i, : len(alone)], alone)
        assert (together[i, len(alone) :] == -1).all()


@pytest.mark.parametrize("plan", PLANS, ids=by_name)
def test_another_key_is_another_order_and_the_same_key_the_same(plan):
    counts = torch.tensor([40, 40, 40])
    keys = keys_of(2)[[0, 1, 0]]
    first, other, again = plan.schedule(counts, keys, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_epoch_has_its_own_order():
    (steps,) = scheduled(batch_plans.shuffled_epochs(epochs=4, batch_size=5), [40])
    orders = {tuple(itertools.chain(*steps[8 * epoch : 8 * (epoch + 1)])) for epoch in range(4)}
    assert len(orders) == 4


def test_random_batches_draw_every_example_equally_often():
    ((*steps,),) = scheduled(batch_plans.random_batches(steps=600, batch_size=10), [6])
    counts = np.bincount(np.ravel(steps), minlength=6)
    assert np.abs(counts - 1_000).max() < SIGMAS * math.sqrt(6_000 * (1 / 6) * (5 / 6))


@pytest.mark.parametrize(
    ("make", "good"),
    [
        (batch_plans.shuffled_epochs, {"epochs": 1, "batch_size": 1}),
        (batch_plans.random_batches, {"steps": 1, "batch_size": 1}),
    ],
)
def test_plans_without_epochs_steps_or_batches_are_refused(make, good):
    for name in good:
        with pytest.raises(InputError, match=rf"{make.__name__}: {name} must be at least 1; got 0"):
            make(**good | {name: 0})
