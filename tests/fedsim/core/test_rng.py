"""Keyed randomness: bits, permutations and streams."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from fedsim.core.batch import Batch
from fedsim.core.rng import (
    Purpose,
    bits,
    client_keys,
    derived_seed,
    numpy_stream,
    permutations,
    torch_stream,
)
from fedsim.models.tasks import classification
from tests.helpers.keys import SIGMAS, keys_of


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


# --- permutations ----


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


# --- ordinary streams ----

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
