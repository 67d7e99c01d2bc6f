"""The synthetic(alpha, beta) family."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from fedsim import data
from fedsim.core.errors import InputError


def synthetic(alpha=1.0, beta=1.0, population=40, **more):
    return data.synthetic(alpha=alpha, beta=beta, population=population, largest=200, **more)


def test_every_synthetic_client_has_train_and_test_examples_ten_to_one():
    dataset = synthetic().load(None)
    owners, train = np.unique(dataset.train_owners, return_counts=True)
    assert owners.tolist() == [f"{k:06d}" for k in range(40)]
    assert np.unique(dataset.test_owners).tolist() == owners.tolist()
    test = np.unique(dataset.test_owners, return_counts=True)[1]
    assert np.array_equal(test, (train + test) // 10)
    assert (train + test).min() >= 50
    assert (train + test).max() == 200  # 2.3 percent of lognormal(4, 2) is above e^8: some are cut


def test_synthetic_data_depend_on_the_seed_alone_and_do_not_change_as_the_population_grows():
    few, many = synthetic(population=5).load(None), synthetic(population=8).load(None)
    assert few.fingerprint() == synthetic(population=5).load(None).fingerprint()
    assert torch.equal(few.train.x, many.train.x[: len(few.train.y)])
    assert torch.equal(few.train.y, many.train.y[: len(few.train.y)])
    assert few.fingerprint() != synthetic(population=5, seed=1).load(None).fingerprint()


def mean_of_inputs(dataset):
    owner = torch.from_numpy(np.unique(dataset.train_owners, return_inverse=True)[1])
    sums = torch.zeros(int(owner.max()) + 1, dtype=torch.float64)
    sums.index_add_(0, owner, dataset.train.x.double().mean(1))
    return sums / torch.bincount(owner)


def test_beta_is_the_spread_of_the_clients_inputs():
    spreads = [
        mean_of_inputs(synthetic(beta=beta, population=300).load(None)).std().item()
        for beta in (0.0, 1.0, 3.0)
    ]
    # v_k's mean over 60 inputs has variance beta^2 + 1/60; a sample std of 300 errs by 1/sqrt(600).
    expected = np.sqrt(np.array([0.0, 1.0, 9.0]) + 1 / 60)
    assert spreads == pytest.approx(expected, rel=5 / np.sqrt(600))


def test_the_larger_alpha_and_beta_the_less_alike_are_the_clients_labels():
    def entropies(size):
        """The mean entropy of a client's labels, and the entropy of all labels."""
        dataset = synthetic(size, size, population=300).load(None)
        client = np.unique(dataset.train_owners, return_inverse=True)[1]
        counts = np.zeros((300, 10))
        np.add.at(counts, (client, dataset.train.y.numpy()), 1)
        return entropy(counts, axis=1).mean(), entropy(counts.sum(0))

    (zero, everyone), (one, _), (three, _) = map(entropies, (0.0, 1.0, 3.0))
    assert everyone > np.log(10) - 0.1  # all ten classes are there, nearly equally often
    assert everyone / 2 > zero > one > three  # even with zero, W_k is a client's own


def test_alpha_moves_no_label_because_it_shifts_the_logits_of_all_classes_alike():
    # W_k = u_k + noise in every entry, so logits = u_k (1 + sum x) + noise: argmax ignores u_k.
    same, other = synthetic(alpha=0).load(None), synthetic(alpha=1).load(None)
    assert torch.equal(same.train.x, other.train.x)
    assert torch.equal(same.train.y, other.train.y)


@pytest.mark.parametrize(
    "wrong", [{"alpha": -1.0}, {"beta": float("nan")}, {"population": 0}], ids=str
)
def test_synthetic_refuses_values_out_of_range(wrong):
    with pytest.raises(InputError, match=f"synthetic: {next(iter(wrong))} must be"):
        synthetic(**wrong)
