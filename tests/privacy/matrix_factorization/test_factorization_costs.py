"""Correlated noise: tree aggregation, closed forms for nu-DP-FTRL, sampling by groups."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from scipy.stats import norm

from fedsim.core.errors import PrivacyError
from privacy.matrix_factorization import (
    FixedEpoch,
    MinSeparation,
    Observed,
    Single,
    group_poisson,
    mean_estimation_ratio,
    nu_ftrl,
    nu_square_sensitivity,
    sensitivity,
    tree,
)
from tests.privacy.matrix_factorization.test_factorization import search_all_patterns

# --- tree aggregation (2103.00039) ----------------------------------------------------------------


@pytest.mark.parametrize(("n", "square"), [(1, 1), (2, 2), (7, 3), (8, 4), (1000, 10), (1024, 11)])
def test_a_single_participation_has_sens_2_floor_log2_n_1(n, square):
    assert sensitivity(tree(rounds=n).strategy, Single()).value ** 2 == pytest.approx(square)


def test_with_a_tree_an_epoch_e_epochs_have_sens_2_e_floor_log2_n_e_1_exactly():
    for n, epochs in ((4, 3), (5, 2), (6, 2)):
        strategy = tree(rounds=n * epochs, period=n).strategy
        for schema in (MinSeparation(n, epochs), FixedEpoch(n, epochs)):
            value, exact = sensitivity(strategy, schema)
            assert exact
            assert value**2 == pytest.approx(epochs * (math.floor(math.log2(n)) + 1))
            assert value == pytest.approx(search_all_patterns(strategy, schema))


def test_nodes_that_hold_two_participations_of_a_unit_count_four_times():
    whole = tree(rounds=8)
    assert whole.sensitivity(Observed(((0, 1),))).value ** 2 == pytest.approx(1 + 3 * 4)
    found = whole.sensitivity(MinSeparation(4, 2))
    assert found.value >= search_all_patterns(whole.strategy, MinSeparation(4, 2))
    assert not found.exact


@pytest.mark.parametrize(("n", "epsilon"), [(1000, 1.1993695738), (1024, 1.2640615920)])
def test_the_tree_has_its_reference_epsilon(n, epsilon):
    mu = tree(rounds=n).sensitivity(Single()).value / 10
    tail = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    assert tail == pytest.approx(1e-5, rel=1e-8)


# --- nu-DP-FTRL (arXiv:2310.06771) ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("nu", "values", "limit"),
    [
        (0.5, (1.0731819688, 1.0731820071, 1.0731820071, 1.0731820071), 1.073182007149),
        (0.1, (1.4366845228, 1.4518426734, 1.4518426734, 1.4518426734), 1.451842673376),
        (0.01, (1.7405836343, 2.1213436377, 2.1368782611, 2.1368782611), 2.136878261111),
        (1e-3, (1.7860550628, 2.4720883769, 2.8464230352, 2.8619855541), 2.861985554178),
        (1e-4, (1.7908128469, 2.5251592879, 3.2045596399, 3.5782477556), 3.593812972779),
        (0.0, (1.7913439416, 2.5313521126, 3.2650030807, 3.9980102911), math.inf),
    ],
)
def test_it_grows_with_t_to_its_limit(nu, values, limit):
    found = [nu_square_sensitivity(nu, 10**power) for power in (1, 2, 3, 4)]
    assert found == pytest.approx(values, abs=6e-11)
    assert nu_square_sensitivity(nu) == pytest.approx(limit, abs=6e-13)
    assert found[1] == pytest.approx(np.sum(nu_ftrl(nu, rounds=100).coefficients ** 2))
    assert sorted(found) == found


def test_the_gain_in_mean_estimation_has_its_reference_values():
    for lr, ratio in (
        (0.5, 0.863789715352),
        (0.1, 0.400490958165),
        (0.01, 0.0908683491859),
        (0.001, 0.0163737316633),
    ):
        assert mean_estimation_ratio(lr) == pytest.approx(ratio, rel=1e-11)
    assert mean_estimation_ratio(1.0) == 1
    gains = [mean_estimation_ratio(lr) for lr in (1e-9, 1e-6, 1e-3, 0.5, 1.0)]
    assert sorted(gains) == gains
    assert gains[0] < 1e-6


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_an_argument_outside_its_range_is_refused(wrong):
    with pytest.raises(PrivacyError, match="nu must be in"):
        nu_square_sensitivity(wrong)
    with pytest.raises(PrivacyError, match="lr must be in"):
        mean_estimation_ratio(wrong)


# --- sampling by groups (arXiv:2306.08153) --------------------------------------------------------


def test_a_client_is_in_the_group_of_one_time_of_every_p():
    plan = group_poisson(bands=4, population=10, cohort=2, rounds=10)
    assert plan.sampling_prob == 0.8
    assert plan.compositions == 3
    for start in range(7):
        members = itertools.chain(*(plan.members(t) for t in range(start, start + 4)))
        assert sorted(members) == list(range(10))
    for client in range(10):
        times = [t for t in range(10) if client in plan.members(t)]
        assert MinSeparation(4, plan.compositions).admits(times)


def test_one_band_is_plain_poisson_sampling():
    plan = group_poisson(bands=1, population=10, cohort=2, rounds=10)
    assert (plan.sampling_prob, plan.compositions) == (0.2, 10)
    assert plan.members(3) == range(10)


@pytest.mark.parametrize(
    ("bands", "cohort", "message"),
    [
        (6, 2, r"group_poisson: bands \* cohort must be at most the population of 10; got 12\."),
        (9, 1, r"bands must be .* at most 8; got 9\. Use fewer\."),
        (0, 1, r"bands must be .* at least 1"),
        (1, 0, r"cohort must be .* at least 1"),
    ],
)
def test_invalid_groups_are_refused(bands, cohort, message):
    with pytest.raises(PrivacyError, match=message):
        group_poisson(bands=bands, population=10, cohort=cohort, rounds=8)


def epsilon_of(bands):
    plan = group_poisson(bands=bands, population=10_000, cohort=100, rounds=1000)
    one = dp_accounting.PoissonSampledDpEvent(
        plan.sampling_prob, dp_accounting.GaussianDpEvent(1.0)
    )
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(dp_accounting.SelfComposedDpEvent(one, plan.compositions))
    return accountant.get_epsilon(1e-5)


@pytest.mark.parametrize(
    ("bands", "epsilon"),
    [
        (1, 1.82824365),
        (2, 2.77345063),
        (4, 4.18515322),
        (5, 4.76592002),
        (10, 7.04660288),
        (20, 10.12795142),
        (50, 15.12327322),
        (100, 17.85658683),
    ],
)
def test_groups_have_their_reference_epsilon(bands, epsilon):
    assert epsilon_of(bands) == pytest.approx(epsilon, abs=1e-7)
