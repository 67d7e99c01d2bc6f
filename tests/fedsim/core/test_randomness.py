"""Randomness: every draw is keyed, so that no result depends on who was drawn for before."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn
from torch.func import functional_call, vmap

from fedsim.core.batch import Batch
from fedsim.core.errors import InputError
from fedsim.core.rng import (
    Purpose,
    bits,
    client_keys,
    derived_seed,
    numpy_stream,
    permutations,
    torch_stream,
)
from fedsim.models.dropout import KeyedDropout, keyed
from fedsim.models.tasks import classification
from strategies import batch_plans

SIGMAS = 5  # two-sided, a chance of 6e-7 for each number tested; seeds are fixed besides


def keys_of(count, *, seed=0, purpose=Purpose.BATCHES, round_num=1):
    return client_keys(seed, purpose, round_num, torch.arange(count))


# --- keys and bits -------------------------------------------------------------------------------


def test_a_clients_key_does_not_depend_on_the_other_clients():
    clients = torch.tensor([99, 0, 7, 7, 5])
    together = client_keys(3, Purpose.STEP, 2, clients)
    alone = [client_keys(3, Purpose.STEP, 2, client.reshape(1)) for client in clients]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"purpose": Purpose.STEP}, {"round_num": 2}], ids=str
)
def test_no_two_of_100_000_clients_share_a_key_nor_have_it_under_another(other):
    keys = torch.cat([keys_of(100_000), keys_of(100_000, **other)])
    assert len(keys.unique()) == 200_000


def test_streams_of_other_seeds_purposes_and_rounds_are_all_different():
    corners = itertools.product(range(8), Purpose, range(8))
    keys = [keys_of(8, seed=s, purpose=p, round_num=r) for s, p, r in corners]
    assert len(torch.cat(keys).unique()) == 8 * len(Purpose) * 8 * 8


@pytest.mark.parametrize("along", ["clients", "draws"])
@pytest.mark.parametrize("seed", range(3))
def test_each_byte_of_the_bits_is_uniform(along, seed):
    keys = keys_of(20_000 if along == "clients" else 1, seed=seed)
    words = bits(keys, 20_000 // len(keys)).numpy()
    for place in range(8):
        byte = (words >> (8 * place) & 0xFF).flatten()
        assert 1e-4 < chisquare(np.bincount(byte, minlength=256)).pvalue < 1 - 1e-4


def related(here, there):
    """How far bits differ from those of their pair less or more often than coins do, in sigmas."""
    unlike = ((here ^ there).unsqueeze(1) >> torch.arange(64)) & 1
    return (unlike.double().mean(0) - 0.5).abs().max() / (0.5 / math.sqrt(len(here)))


def test_bits_of_neighbouring_keys_are_uncorrelated():
    keys = keys_of(20_000)
    assert related(keys[:-1], keys[1:]) < SIGMAS
    for other in ({"seed": 1}, {"purpose": Purpose.STEP}, {"round_num": 2}):
        assert related(keys, keys_of(20_000, **other)) < SIGMAS


def test_bits_of_neighbouring_words_are_uncorrelated():
    words = bits(torch.arange(20_000), 2)  # the keys of a lazy caller
    assert related(words[:-1, 0], words[1:, 0]) < SIGMAS
    assert related(words[:, 0], words[:, 1]) < SIGMAS


# --- permutations --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 99))
def test_a_row_is_a_permutation_of_the_count_and_then_padding(counts, spare, seed):
    width = max(counts) + spare
    rows = permutations(keys_of(len(counts), seed=seed), torch.tensor(counts), width)
    assert rows.shape == (len(counts), width)
    for row, count in zip(rows.tolist(), counts, strict=True):
        assert sorted(row[:count]) == list(range(count))
        assert row[count:] == [-1] * (width - count)


@pytest.mark.parametrize("width", [3, 8])
def test_all_six_orders_of_three_are_equally_likely(width):
    keys = keys_of(6_000)
    rows = permutations(keys, torch.full((6_000,), 3), width)[:, :3]
    _, counts = rows.unique(dim=0, return_counts=True)
    # Each is had by 6,000 / 6 keys, binomially.
    assert len(counts) == 6
    assert (counts - 1_000).abs().max() < SIGMAS * math.sqrt(6_000 * (1 / 6) * (5 / 6))


# --- batch plans ---------------------------------------------------------------------------------

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


# --- dropout -------------------------------------------------------------------------------------

N = 100_000


def dropped(key, *, p=0.5, salt=1, x=None):
    layer = KeyedDropout(p, salt)
    layer.key = torch.as_tensor(key)
    return layer(torch.ones(N) if x is None else x)


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(p):
    out = dropped(keys_of(1)[0], p=p)
    kept = out != 0
    torch.testing.assert_close(out[kept].unique(), torch.tensor([1 / (1 - p)]))
    std = math.sqrt(p * (1 - p) / N)
    assert abs(kept.double().mean() - (1 - p)) < SIGMAS * std
    assert abs(out.double().mean() - 1) < SIGMAS * std / (1 - p)


@pytest.mark.parametrize(
    "other", [{"key": 6}, {"key": 5 + (1 << 32)}, {"key": -5}, {"salt": 2}], ids=str
)
def test_the_mask_is_the_same_for_the_same_key_and_unrelated_for_another(other):
    mask = dropped(5) != 0
    assert torch.equal(dropped(5) != 0, mask)
    agreed = mask == (dropped(**{"key": 5} | other) != 0)
    assert abs(agreed.double().mean() - 0.5) < SIGMAS * 0.5 / math.sqrt(N)  # as fair coins agree


def test_neighbouring_elements_of_the_mask_are_uncorrelated():
    mask = dropped(keys_of(1)[0]) != 0
    for distance in (1, 2, 28, 32, 1024):
        agreed = mask[distance:] == mask[:-distance]
        assert abs(agreed.double().mean() - 0.5) < SIGMAS * 0.5 / math.sqrt(N - distance)


def test_dropout_is_the_identity_in_evaluation_and_with_p_0():
    x = torch.randn(3, 4, generator=torch_stream(0, Purpose.DATA))
    assert torch.equal(KeyedDropout(0.5, salt=1).eval()(x), x)
    assert torch.equal(dropped(5, p=0.0, x=x), x)


def test_dropout_with_p_1_drops_all_as_torch_does():
    assert dropped(5, p=1.0, x=torch.ones(4)).tolist() == nn.Dropout(1.0)(torch.ones(4)).tolist()


def test_stacked_clients_get_the_masks_that_each_gets_alone():
    layer, keys = KeyedDropout(0.5, salt=2), keys_of(4)
    x = torch.randn(4, 3, 5, generator=torch_stream(0, Purpose.DATA))
    stacked = vmap(lambda key, x: functional_call(layer, {"key": key}, (x,)))(keys, x)
    alone = [
        functional_call(layer, {"key": key}, (part,)) for key, part in zip(keys, x, strict=True)
    ]
    assert torch.equal(stacked, torch.stack(alone))
    assert not torch.equal(stacked[0] == 0, stacked[1] == 0)


@pytest.mark.parametrize(
    "count",
    [
        2,
        pytest.param(3),
    ],
)
def test_each_dropout_layer_of_a_model_has_its_own_masks(count):
    layers = keyed(nn.ModuleList(nn.Dropout(0.5) for _ in range(count)))
    assert all(isinstance(layer, KeyedDropout) for layer in layers)
    masks = [layer(torch.ones(N)) != 0 for layer in layers]
    for one, other in itertools.combinations(masks, 2):
        agreed = (one == other).double().mean()
        assert abs(agreed - 0.5) < SIGMAS * 0.5 / math.sqrt(N)


def test_a_dropout_layer_used_twice_is_keyed_in_both_places():
    drop = nn.Dropout(0.5)
    model = keyed(nn.Sequential(nn.Linear(2, 2), drop, nn.Linear(2, 2), drop))
    assert not any(type(layer) is nn.Dropout for layer in model.modules())


def test_a_tasks_loss_depends_on_the_batchs_key_and_its_prediction_does_not_drop():
    def build():
        return nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5), nn.Linear(200, 2))

    task = classification("dropouts", build)
    batch = Batch(torch.ones(2, 200), torch.tensor([0, 1]), torch.ones(2), torch.tensor(5))
    params = task.init(0)
    loss = task.loss(params, batch)
    assert torch.equal(task.loss(params, batch), loss)
    assert not torch.equal(task.loss(params, batch._replace(key=torch.tensor(6))), loss)
    logits = batch.x @ params["2.weight"].T + params["2.bias"]
    torch.testing.assert_close(task.predict(params, batch.x), logits)


def test_dropout_of_whole_channels_is_refused_with_its_place_and_the_remedy():
    with pytest.raises(ValueError, match=r"keyed: 1 must be nn\.Dropout; got Dropout2d.*Use nn\.D"):
        keyed(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout2d(0.5)))


# --- ordinary streams ----------------------------------------------------------------------------

STREAMS = {
    "numpy": lambda *key, **more: numpy_stream(*key, **more).integers(1 << 62, size=4).tolist(),
    "torch": lambda *key, **more: torch.rand(4, generator=torch_stream(*key, **more)).tolist(),
    "seed": derived_seed,
}


@pytest.mark.parametrize("draw", STREAMS.values(), ids=STREAMS)
def test_a_stream_is_the_same_for_the_same_key_and_differs_for_any_other(draw):
    corners = list(itertools.product(range(4), Purpose, range(4), range(4)))
    draws = [draw(*corner) for corner in corners]
    assert draw(2, Purpose.INIT, round_num=1, client=3) == draws[corners.index((2, 3, 1, 3))]
    assert len(set(map(str, draws))) == len(corners)


def test_derived_seeds_are_numbers_of_63_bits():
    seeds = [derived_seed(seed, Purpose.SPLIT) for seed in range(200)]
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert max(seeds) >= 1 << 62


def test_a_tasks_parameters_come_from_the_seed_and_leave_torchs_generator_alone():
    def build():
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))

    before = torch.get_rng_state()
    task = classification("small", build)
    first = task.init(1)
    task.loss(first, Batch(torch.ones(2, 3), torch.ones(2).long(), torch.ones(2), torch.tensor(5)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)  # moves the global generator, on which nothing may depend
    again, other = task.init(1), task.init(2)
    for name, value in first.items():
        assert torch.equal(again[name], value)
        assert not torch.equal(other[name], value)
