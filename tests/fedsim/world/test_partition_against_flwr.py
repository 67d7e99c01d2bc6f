"""Our splits deal exactly what the partitioners of flwr_datasets deal."""

import warnings

import datasets
import numpy as np
import pytest
import torch
from flwr_datasets import partitioner as flwr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsim.core.dataset import Dataset, Examples
from fedsim.core.errors import InputError
from fedsim.core.rng import Purpose, derived_seed, numpy_stream
from fedsim.data import digits
from fedsim.world import partition

SIZES = {
    "linear": flwr.LinearPartitioner,
    "square": flwr.SquarePartitioner,
    "exponential": flwr.ExponentialPartitioner,
}


def labelled(labels):
    """A dataset of these labels, with nothing else to it."""
    y = torch.as_tensor(labels, dtype=torch.int64)
    nothing = Examples(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64))
    return Dataset(
        name="labelled", train=Examples(torch.zeros(len(y), 1), y), test=nothing, num_classes=10
    )


def ask_flwr(make, dataset, population, seed):
    """The client of each example by a partitioner of flwr_datasets; None where it refuses.

    Args:
        make: (population, seed) -> the partitioner.
        dataset: whose training examples are dealt.
        population: how many clients.
        seed: of the run.
    """
    order = numpy_stream(seed, Purpose.SPLIT).permutation(len(dataset.train.y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked = make(population, derived_seed(seed, Purpose.SPLIT) % (1 << 32))
        asked.dataset = datasets.Dataset.from_dict(
            {"label": dataset.train.y.numpy()[order], "row": order}
        )
        client = np.full(len(order), -1)
        try:
            for number in range(population):
                client[np.asarray(asked.load_partition(number)["row"], dtype=int)] = number
        except (ValueError, ZeroDivisionError):
            return None
    return client


def deal(split, dataset, population, seed):
    """The client of each example by our split; None where it refuses."""
    try:
        return split.assign(dataset, population, seed)[0]
    except InputError:
        return None


def assert_same(split, make, dataset, population, seed):
    expected = ask_flwr(make, dataset, population, seed)
    got = deal(split, dataset, population, seed)
    assert (got is None) == (expected is None)
    assert expected is None or np.array_equal(got, expected)


@st.composite
def worlds(draw):
    """A dataset of 1 to 60 labels, with gaps between the classes, its clients and a seed."""
    labels = draw(st.lists(st.sampled_from([0, 1, 2, 5, 9]), min_size=1, max_size=60))
    return labelled(labels), draw(st.integers(1, len(labels))), draw(st.integers(0, 1 << 40))


many = settings(deadline=None, max_examples=15)  # the other side is slow


@many
@given(worlds())
def test_iid(world):
    assert_same(partition.iid(), lambda n, seed: flwr.IidPartitioner(n), *world)


@many
@given(worlds(), st.floats(1e-6, 1e6))
@example((labelled([0, 1, 1]), 3, 0), 1e-300)
@example((labelled([0, 1, 1]), 3, 0), 1e300)
def test_dirichlet(world, alpha):
    assert_same(
        partition.dirichlet(alpha),
        lambda n, seed: flwr.DirichletPartitioner(n, "label", alpha, 0, seed=seed),
        *world,
    )


@many
@given(worlds(), st.integers(1, 6))
def test_pathological(world, classes):
    assert_same(
        partition.pathological(classes),
        lambda n, seed: flwr.PathologicalPartitioner(n, "label", classes, "random", seed=seed),
        *world,
    )


@many
@given(worlds(), st.integers(1, 4))
def test_shards(world, per_client):
    assert_same(
        partition.shards(per_client),
        lambda n, seed: flwr.ShardPartitioner(
            n, "label", num_shards_per_partition=per_client, seed=seed
        ),
        *world,
    )


@many
@given(worlds(), st.sampled_from(sorted(SIZES)))
def test_sizes(world, law):
    assert_same(partition.sizes(law), lambda n, seed: SIZES[law](n), *world)


@pytest.mark.parametrize(("population", "alpha"), [(200, 0.3), (240, 0.05), (240, 10.0)])
def test_dirichlet_on_digits(population, alpha):
    for seed in range(2):
        assert_same(
            partition.dirichlet(alpha),
            lambda n, seed: flwr.DirichletPartitioner(n, "label", alpha, 0, seed=seed),
            digits().load(None),
            population,
            seed,
        )


def test_sizes_of_more_clients_than_a_float_can_count_are_refused():
    dataset = labelled(np.zeros(800, dtype=int))
    assert_same(
        partition.sizes("exponential"), lambda n, seed: SIZES["exponential"](n), dataset, 800, 0
    )
