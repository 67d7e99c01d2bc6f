"""Which client owns which example, under every split."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from fedsim.core.dataset import Dataset, Examples
from fedsim.core.errors import InputError
from fedsim.world import partition
from fedsim.world.population import build_population


def labelled(y, owners=None, test_owners=None):
    """A dataset of these labels, with nothing else to it."""
    y = torch.as_tensor(np.asarray(y), dtype=torch.int64)
    count = 0 if test_owners is None else len(test_owners)
    return Dataset(
        name="labelled",
        train=Examples(torch.zeros(len(y), 1), y),
        test=Examples(torch.zeros(count, 1), torch.zeros(count, dtype=torch.int64)),
        num_classes=10,
        train_owners=None if owners is None else np.array(owners),
        test_owners=None if test_owners is None else np.array(test_owners),
    )


# 200 examples of each of ten classes, in an order of no meaning.
TEN_CLASSES = labelled(np.random.default_rng(0).permutation(np.arange(2000) % 10))

DEALING_ALL = [
    partition.iid(),
    partition.dirichlet(0.3),
    partition.sizes("linear"),
    partition.sizes("square"),
    partition.sizes("exponential"),
]
DEALT = [*DEALING_ALL, partition.pathological(2), partition.shards(2)]


def by_name(split):
    return split.name


def dealt(split, population, *, dataset=TEN_CLASSES, seed=0):
    """The client number of each training example."""
    return split.assign(dataset, population, seed)[0]


def sizes_of(client, population):
    return np.bincount(client[client >= 0], minlength=population)


@pytest.mark.parametrize("split", DEALT, ids=by_name)
@pytest.mark.parametrize("population", [1, 3, 8])
def test_an_example_has_one_owner_at_most_and_is_listed_with_that_client_alone(split, population):
    client = dealt(split, population)
    people = build_population(TEN_CLASSES, split, population, seed=0)
    assert people.size == population
    for number in range(population):
        assert people.owned.of(number).tolist() == np.flatnonzero(client == number).tolist()
    assert people.owned.counts().sum() == (client >= 0).sum()
    if split in DEALING_ALL:
        assert client.min() >= 0


@pytest.mark.parametrize("split", DEALT, ids=by_name)
def test_the_same_seed_gives_the_same_split_and_another_seed_another(split):
    first = dealt(split, 8)
    other = dealt(split, 8, seed=1)
    assert np.array_equal(dealt(split, 8), first)
    assert not np.array_equal(other, first)


@pytest.mark.parametrize(
    "split", [partition.dirichlet(0.3), partition.pathological(2)], ids=by_name
)
def test_another_seed_draws_other_shares_of_the_classes_not_only_other_examples(split):
    one, other = (build_population(TEN_CLASSES, split, 8, seed).label_counts() for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_dirichlet_splits_of_nearly_equal_alpha_are_not_mistaken_for_each_other():
    assert partition.dirichlet(1.0).name != partition.dirichlet(1.0000001).name


# --- each law ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_iid_sizes_differ_by_one_at_most(draw):
    count = draw.draw(st.integers(1, 60))
    population = draw.draw(st.integers(1, count))
    sizes = sizes_of(
        dealt(partition.iid(), population, dataset=labelled(np.zeros(count))), population
    )
    assert sizes.sum() == count
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(
    ("law", "weigh"), [("linear", lambda i: i), ("square", np.square), ("exponential", np.exp)]
)
def test_sizes_follow_their_law_and_the_last_client_takes_what_is_left(law, weigh):
    weights = weigh(np.arange(1.0, 9.0))
    expected = np.floor(2000 * weights / weights.sum()).astype(int)
    expected[-1] += 2000 - expected.sum()
    assert sizes_of(dealt(partition.sizes(law), 8), 8).tolist() == expected.tolist()


def shares(alpha, population=20):
    """The share of each class among each client's examples, [N, 10]."""
    people = build_population(TEN_CLASSES, partition.dirichlet(alpha), population, seed=0)
    counts = people.label_counts()
    counts = counts[counts.sum(1) > 0]
    return counts / counts.sum(1, keepdims=True)


def test_the_smaller_dirichlets_alpha_the_fewer_classes_a_client_has():
    few, some, many = (np.exp(entropy(shares(a), axis=1).mean()) for a in (0.05, 0.5, 5.0))
    assert few < 3 < some < 7 < many  # effective number of classes: e to the mean entropy


def test_with_a_large_alpha_every_client_is_close_to_the_whole():
    # 1,000: a client's share of a class is 1/20 +- 3 percent, and is then cut to whole examples,
    # 10 +- 1. So half the sum of |share - 1/10| over the classes is about 0.04; 0.1 is far out.
    assert (np.abs(shares(1000.0) - 0.1).sum(1) / 2).max() < 0.1


def test_dirichlet_may_leave_clients_empty_and_they_stay_clients():
    people = build_population(TEN_CLASSES, partition.dirichlet(0.05), 100, seed=0)
    counts = people.owned.counts()
    assert people.size == 100
    assert counts.sum() == 2000
    empty = int((counts == 0).nonzero()[0])
    assert people.owned.of(empty).tolist() == []
    assert people.label_counts()[empty].tolist() == [0] * 10


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_pathological_client_has_exactly_the_given_number_of_classes(classes):
    counts = build_population(TEN_CLASSES, partition.pathological(classes), 20, 0).label_counts()
    assert ((counts > 0).sum(1) == classes).all()


def test_a_pathological_split_leaves_out_only_whole_classes_that_no_client_drew():
    client, labels = dealt(partition.pathological(2), 3), TEN_CLASSES.train.y.numpy()
    owned = [set(labels[client == number]) for number in range(3)]
    unowned = set(range(10)) - set.union(*owned)
    assert len(unowned) >= 4  # three clients of two classes have six at most
    assert np.array_equal(client == -1, np.isin(labels, list(unowned)))


def test_shards_are_of_one_size_and_hold_one_class_where_they_divide_it():
    people = build_population(TEN_CLASSES, partition.shards(2), 10, seed=0)
    # 10 clients of 2 shards: 20 shards of 100, two in each class of 200.
    assert people.owned.counts().tolist() == [200] * 10
    assert set(people.label_counts().flatten()) <= {0, 100, 200}


def test_shards_leave_out_no_more_than_does_not_divide():
    size = 2000 // (7 * 3)
    assert sizes_of(dealt(partition.shards(3), 7), 7).tolist() == [3 * size] * 7


# --- natural owners ------------------------------------------------------------------------------

OWNERS = ["b", "a", "c", "a", "dd", "b", "a"]
TEST_OWNERS = ["dd", "new", "a", "c", "a"]
OWNED = labelled(range(len(OWNERS)), OWNERS, TEST_OWNERS)


def test_natural_clients_are_the_owners_in_sorted_order_and_tests_follow_them():
    train, test = partition.natural().assign(OWNED, 4, 0)
    assert train.tolist() == [1, 0, 2, 0, 3, 1, 0]
    assert test.tolist() == [3, -1, 0, 2, 0]  # who has nothing to train on is no client
    people = build_population(OWNED, partition.natural(), 4, seed=0)
    assert [people.own_tests.of(number).tolist() for number in range(4)] == [[2, 4], [], [3], [0]]


@pytest.mark.parametrize("population", [1, 2, 3])
def test_a_natural_subset_keeps_whole_owners_and_gives_no_client_the_rest(population):
    seen = set()
    for seed in range(20):
        train, test = partition.natural().assign(OWNED, population, seed)
        chosen = sorted({owner for owner, client in zip(OWNERS, train, strict=True) if client >= 0})
        assert len(chosen) == population
        number = {owner: place for place, owner in enumerate(chosen)}
        assert train.tolist() == [number.get(owner, -1) for owner in OWNERS]
        assert test.tolist() == [number.get(owner, -1) for owner in TEST_OWNERS]
        seen.add(tuple(chosen))
        people = build_population(OWNED, partition.natural(), population, seed)
        assert people.owned.counts().tolist() == [OWNERS.count(owner) for owner in chosen]
    assert len(seen) == math.comb(4, population)  # which owners is random: in 20 seeds, all sets


def test_a_split_that_does_not_follow_owners_gives_clients_no_tests_of_their_own():
    assert build_population(OWNED, partition.iid(), 2, seed=0).own_tests is None


def test_given_clients_are_taken_as_they_are():
    client = np.array([2, -1, 0, 2, 0, -1, 2])
    people = build_population(OWNED, partition.given(client), 4, seed=0)
    assert [people.owned.of(number).tolist() for number in range(4)] == [[2, 4], [], [0, 3, 6], []]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 9)), min_size=1, max_size=40),
)
def test_label_counts_agree_with_counting_one_by_one(examples):
    client, labels = (np.array(column) for column in zip(*examples, strict=True))
    people = build_population(labelled(labels), partition.given(client), 5, seed=0)
    expected = np.zeros((5, 10), dtype=int)
    for owner, label in examples:
        if owner >= 0:
            expected[owner, label] += 1
    assert people.label_counts().tolist() == expected.tolist()


# --- wrong values -----------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0, -1, math.nan, math.inf])
def test_an_alpha_that_is_not_a_number_above_0_is_refused_with_a_remedy(alpha):
    with pytest.raises(InputError, match=r"dirichlet: alpha must be > 0; got .*Use 0\.1 for"):
        partition.dirichlet(alpha)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: partition.pathological(0), "classes_per_client must be at least 1; got 0. Use 2"),
        (lambda: partition.shards(0), "per_client must be at least 1; got 0. Use 2"),
        (
            lambda: partition.sizes("cubic"),
            "law must be linear, square or exponential; got 'cubic'",
        ),
    ],
)
def test_a_wrong_parameter_is_refused_when_the_split_is_made(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("split", [*DEALT, partition.natural()], ids=by_name)
def test_a_population_of_0_or_larger_than_the_data_allow_is_refused(split):
    with pytest.raises(InputError, match=r"population must be at least 1; got 0"):
        dealt(split, 0, dataset=OWNED)
    with pytest.raises(
        InputError, match=r"population must be at most .* (7|4); got 8\. Use .*--population"
    ):
        dealt(split, 8, dataset=OWNED)


def test_natural_is_refused_on_data_without_owners():
    with pytest.raises(InputError, match=r"natural must be used on data with owners; got labelled"):
        dealt(partition.natural(), 2)


@pytest.mark.parametrize(
    ("split", "population"),
    [
        (partition.pathological(11), 5),
        (partition.pathological(10), 201),
        (partition.sizes("exponential"), 20),
        pytest.param(partition.shards(21), 100),
    ],
    ids=["more classes than there are", "a class for too many", "shares below one", "empty shards"],
)
def test_an_impossible_split_is_refused_by_name_and_population(split, population):
    with pytest.raises(InputError) as refused:
        dealt(split, population)
    assert f"{split.name} must be possible for {population} clients of labelled" in str(
        refused.value
    )


@pytest.mark.parametrize(
    "client", [[0, 1, 2], [0, 1, 2, 3, 4, 0, 0], [0, 1, -2, 3, 0, 0, 0]], ids=str
)
def test_given_clients_must_fit_the_examples_and_the_population(client):
    with pytest.raises(InputError, match=r"given: clients must be 7 numbers from -1 to 3; got"):
        dealt(partition.given(np.array(client)), 4, dataset=OWNED)
