"""Closed forms and bounds: the Gaussian mechanism, shuffling, random allocation, limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fedsim.core.errors import PrivacyError
from privacy.accounting import PoissonGaussian, account, tradeoff, warning
from privacy.accounting.gaussian import delta_of, epsilon_of, mu_of, sigma_of, tv_of
from privacy.accounting.lower_bounds import (
    noise_threshold,
    poisson_kappa,
    shuffled_kappa,
)
from privacy.accounting.shuffled import (
    allocation_noise,
    allocation_tv,
    batch_clipping_mu,
    shuffled_delta,
    shuffled_epsilon,
    shuffled_reports,
    truth_prob,
)

# --- the Gaussian mechanism ----------------------------------------------------------------------

EPSILON = {  # mu: epsilon at delta = 1e-3, 1e-5, 1e-6, 1e-8
    0.1: (0.19753397324, 0.340669364684, 0.396857377644, 0.492850365355),
    0.5: (1.3522762448, 1.99309140442, 2.25408465022, 2.70760633422),
    1: (3.13867054858, 4.37717809568, 4.88655411746, 5.77609838289),
    2: (7.58127992457, 9.99725614643, 10.9971512142, 12.7492463996),
    4: (19.6241205674, 24.3816108831, 26.3569639253, 29.8248580352),
    8: (55.8784170247, 65.3192198885, 69.2439635126, 76.1395420941),
}
DELTA = {0: 0.382924922548, 0.5: 0.238421708135, 1: 0.126936737507, 2: 0.0209236358211}
SIGMA = {0.1: 30.749566132, 0.5: 7.03182667558, 1: 3.73063163482, 2: 1.99381244564}
SIGMA |= {8: 0.600229072199}


@pytest.mark.parametrize("mu", EPSILON)
def test_epsilon_of_a_gaussian_is_its_reference_value(mu):
    found = [epsilon_of(delta, mu) for delta in (1e-3, 1e-5, 1e-6, 1e-8)]
    assert found == pytest.approx(EPSILON[mu], rel=2e-11)


def test_delta_of_a_gaussian_is_its_reference_value():
    assert [delta_of(e, 1) for e in DELTA] == pytest.approx(list(DELTA.values()), rel=1e-11)
    assert delta_of(4, 1) == pytest.approx(4.71224120079e-5, rel=1e-11)


def test_the_noise_of_a_gaussian_is_its_reference_value_and_above_the_textbooks():
    assert [sigma_of(e, 1e-5) for e in SIGMA] == pytest.approx(list(SIGMA.values()), rel=1e-11)
    textbook = math.sqrt(2 * math.log(1.25 / 1e-6)) / 10
    assert sigma_of(10, 1e-6) == pytest.approx(0.541086831818, rel=1e-11)
    assert textbook == pytest.approx(0.5298802527, rel=1e-9)
    assert delta_of(10, 1 / textbook) > 1e-6  # it is not private


@pytest.mark.parametrize(
    ("mu", "tv"),
    [
        (0.1, 0.0398776116767),
        (0.5, 0.197412651366),
        (1, 0.382924922548),
        (2, 0.682689492137),
        (4, 0.954499736104),
    ],
)
def test_total_variation_of_a_gaussian_is_delta_at_0(mu, tv):
    assert tv_of(mu) == pytest.approx(tv, rel=1e-11)
    assert tv_of(mu) == pytest.approx(delta_of(0, mu), rel=1e-11)


MUS, DELTAS = st.floats(1e-3, 60.0), st.floats(-25.0, -0.05).map(math.exp)


@given(mu=MUS, delta=DELTAS)
def test_delta_of_epsilon_of_delta_is_at_most_delta(mu, delta):
    epsilon = epsilon_of(delta, mu)
    assert delta_of(epsilon, mu) <= delta
    if epsilon:
        assert delta_of(epsilon, mu) == pytest.approx(delta, rel=1e-6)


@given(epsilon=st.floats(0.0, 200.0), delta=DELTAS)
def test_delta_of_the_calibrated_noise_is_at_most_delta(epsilon, delta):
    assert delta_of(epsilon, 1 / sigma_of(epsilon, delta)) <= delta
    assert delta_of(epsilon, mu_of(epsilon, delta)) <= delta
    assert delta_of(epsilon, mu_of(epsilon, delta)) == pytest.approx(delta, rel=1e-6)


@given(mu=MUS, low=st.floats(0.0, 50.0), step=st.floats(0.01, 10.0))
def test_delta_falls_with_epsilon_and_grows_with_mu(mu, low, step):
    assert 0 <= delta_of(low + step, mu) <= delta_of(low, mu) <= 1
    assert delta_of(low, mu) <= delta_of(low, mu * (1 + step))


def test_the_ends_of_the_gaussian_are_exact():
    assert epsilon_of(1e-5, 0.0) == 0.0
    assert epsilon_of(1e-5, math.inf) == math.inf
    assert epsilon_of(0.999999, 1.0) == 0.0
    assert delta_of(700, 0.1) == 0.0
    assert delta_of(1.0, 0.0) == 0.0
    assert delta_of(1.0, math.inf) == 1.0
    assert epsilon_of(1e-300, 1.0) == pytest.approx(37.4488479, rel=1e-8)  # no underflow


def test_a_rho_of_zero_concentrated_privacy_is_looser_than_the_gaussian_it_came_from():
    for rho, exact in ((0.05, 1.199369574), (0.5, 4.377178096)):
        assert epsilon_of(1e-5, math.sqrt(2 * rho)) == pytest.approx(exact, rel=1e-9)
        assert exact < rho + 2 * math.sqrt(rho * math.log(1e5))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: delta_of(-1.0, 1.0),
        lambda: delta_of(math.nan, 1.0),
        lambda: delta_of(1.0, -1.0),
        lambda: delta_of(1.0, math.nan),
        lambda: epsilon_of(0.0, 1.0),
        lambda: epsilon_of(1.0, 1.0),
        lambda: epsilon_of(1e-5, math.nan),
        lambda: sigma_of(math.inf, 1e-5),
        lambda: sigma_of(1.0, 1.5),
        lambda: mu_of(-1.0, 1e-5),
        lambda: tv_of(-1.0),
        lambda: shuffled_delta(1.0, 0.0, 10),
        lambda: shuffled_delta(-1.0, 1.0, 10),
        lambda: shuffled_epsilon(1e-5, 1.0, 0),
        lambda: shuffled_epsilon(0.0, 1.0, 10),
        lambda: batch_clipping_mu(0.0, 1),
        lambda: batch_clipping_mu(1.0, -1),
        lambda: batch_clipping_mu(1.0, 1, 1.5),
        lambda: truth_prob(1.0, 1),
        lambda: truth_prob(-1.0, 2),
        lambda: shuffled_reports(8.0, 1000, 1e-6),
        lambda: allocation_tv(math.nan, 10),
        lambda: allocation_noise(0.6, 10),
        lambda: allocation_noise(0.1, 10, 0),
        lambda: noise_threshold(1),
        lambda: shuffled_kappa(-1.0, 10),
        lambda: warning(math.nan, 10),
    ],
)
def test_bad_input_is_refused_in_one_line(ask):
    with pytest.raises(PrivacyError, match=r"^[^\n]+ must be [^\n]+; got [^\n]+\. [^\n]+$"):
        ask()


# --- shuffled batches ----------------------------------------------------------------------------

SHUFFLED = [  # batches, noise multiplier, Poisson, shuffled >=, deterministic
    (100, 0.5, 7.916084, 10.997128, 10.997151),
    (100, 1.0, 0.954217, 4.680911, 4.886554),
    (100, 2.0, 0.227975, 0.715240, 2.254085),
    (1000, 0.5, 4.235068, 10.996915, 10.997151),
    (1000, 1.0, 0.185517, 3.723891, 4.886554),
    (1000, 2.0, 0.061141, 0.110374, 2.254085),
    (10000, 0.5, 1.953225, 10.994788, 10.997151),
    (10000, 0.8, 0.079398, 4.940066, 6.312060),
    (10000, 1.0, 0.046978, 1.895698, 4.886554),
    (10000, 2.0, 0.017275, 0.011736, 2.254085),
]


@pytest.mark.parametrize(("batches", "z", "poisson", "lower", "upper"), SHUFFLED)
def test_a_shuffled_epoch_lies_between_its_bounds(batches, z, poisson, lower, upper):
    assert shuffled_epsilon(1e-6, z, batches) == pytest.approx(lower, abs=1e-6)
    assert epsilon_of(1e-6, 1 / z) == pytest.approx(upper, abs=1e-6)
    assert lower <= upper


@pytest.mark.parametrize(("batches", "z", "poisson"), [row[:3] for row in SHUFFLED[1:2]])
def test_the_same_epoch_of_poisson_batches_is_far_more_private(batches, z, poisson):
    event = PoissonGaussian(sampling_prob=1 / batches, noise_multiplier=z, count=batches)
    assert account([event], 1e-6).epsilon == pytest.approx(poisson, rel=2e-4)


@pytest.mark.parametrize(
    ("z", "batches", "epsilon", "delta"),
    [
        (1.0, 1000, 1.0, 9.9874359688e-4),
        (1.0, 1000, 4.0, 4.3807007563e-7),
        (0.5, 100, 8.0, 4.9502458304e-4),
        (2.0, 100, 0.5, 8.3988671448e-6),
    ],
)
def test_delta_of_a_shuffled_epoch_is_its_reference_value(z, batches, epsilon, delta):
    assert shuffled_delta(epsilon, z, batches) == pytest.approx(delta, rel=1e-8)
    assert shuffled_epsilon(delta, z, batches) == pytest.approx(epsilon, rel=1e-6)
    assert shuffled_delta(epsilon, z, batches) <= delta_of(epsilon, 1 / z)


def test_one_batch_is_the_whole_set_and_hides_nothing():
    assert shuffled_epsilon(1e-6, 1.0, 1) == pytest.approx(epsilon_of(1e-6, 1.0), rel=1e-9)


@pytest.mark.slow
def test_at_little_noise_poisson_batches_are_worse_than_ones_in_order():
    event = PoissonGaussian(sampling_prob=0.01, noise_multiplier=0.3, count=100)
    assert account([event], 1e-6).epsilon == pytest.approx(31.569893, rel=1e-6)
    assert epsilon_of(1e-6, 1 / 0.3) == pytest.approx(20.781222, rel=1e-7)


# --- batch clipping and local reports ------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "epochs", "z", "mu", "epsilon"),
    [
        (1, 10, 2.0, 1.5811388301, 7.51127590),
        (1, 50, 10.0, 0.7071067812, 2.94322524),
        (4, 50, 10.0, 1.4142135624, 6.57297007),
    ],
)
def test_batch_clipping_grows_with_the_root_of_the_group_and_the_epochs(
    group, epochs, z, mu, epsilon
):
    found = batch_clipping_mu(z, epochs, group)
    assert found == pytest.approx(mu, rel=1e-9)
    assert epsilon_of(1e-5, found) == pytest.approx(epsilon, rel=1e-8)
    assert found <= group * math.sqrt(epochs) / z  # clipped one by one: the whole group in a batch


@pytest.mark.parametrize(
    ("local", "reports", "delta", "central"),
    [
        (1, 10_000, 1e-6, 0.2140256519),
        (4, 1_000_000, 1e-8, 0.2263683962),
        (2, 100_000, 1e-6, 0.1861891973),
        (0.5, 1000, 1e-5, 0.2538418203),
    ],
)
def test_shuffled_reports_hide_in_the_crowd(local, reports, delta, central):
    assert shuffled_reports(local, reports, delta) == pytest.approx(central, rel=1e-9)


@given(epsilon=st.floats(0.0, 20.0), values=st.integers(2, 1000))
def test_truth_is_e_to_the_epsilon_times_as_likely_as_any_one_lie(epsilon, values):
    truth = truth_prob(epsilon, values)
    lie = (1 - truth) / (values - 1)
    assert truth == pytest.approx(math.exp(epsilon) * lie, rel=1e-5)
    assert truth_prob(800.0, values) == 1.0


# --- random allocation ---------------------------------------------------------------------------

ALLOCATION = [  # noise multiplier, steps, epochs, bound
    (1.0, 1000, 1, 0.0207260816),
    (1.0, 10, 1, 0.2072608157),
    (0.5, 100, 1, 0.3660537871),
    (1.0, 1000, 50, 0.1496933277),
    (1.1, 234, 60, 0.3118763247),
]


@pytest.mark.parametrize(("z", "batches", "epochs", "bound"), ALLOCATION)
def test_random_allocation_has_its_reference_bound(z, batches, epochs, bound):
    assert allocation_tv(z, batches, epochs) == pytest.approx(bound, abs=1e-10)


def test_random_allocation_is_bounded_by_half_the_root_of_its_chi_square():
    expected = math.sqrt(math.expm1(1.0) / 100) / 2
    assert allocation_tv(1.0, 100) == pytest.approx(expected, rel=1e-12)
    assert allocation_tv(1.0, 100) == pytest.approx(0.0655416247, abs=1e-10)


def test_the_bound_on_random_allocation_is_above_the_exact_value_of_two_steps():
    x = np.linspace(-9, 10, 1501)
    density = norm.pdf(x)[:, None] * norm.pdf(x)
    other = (np.exp(x - 0.5)[:, None] + np.exp(x - 0.5)) / 2  # likelihood ratio of the mixture
    exact = np.abs(other - 1).ravel() @ density.ravel() * (x[1] - x[0]) ** 2 / 2
    assert exact < allocation_tv(1.0, 2)
    assert exact > shuffled_kappa(1.0, 2) * math.sqrt(2)  # and any test is below it


@pytest.mark.parametrize(
    ("tv", "batches", "epochs", "z"),
    [
        (0.1, 100, 1, 0.7882480159),
        (0.1, 1000, 10, 0.7917348946),
        (0.1, 234, 60, 2.6502124974),
        (0.2, 1000, 50, 0.8514189037),
    ],
)
def test_the_noise_of_random_allocation_inverts_its_bound(tv, batches, epochs, z):
    assert allocation_noise(tv, batches, epochs) == pytest.approx(z, rel=1e-9)
    assert allocation_tv(z, batches, epochs) == pytest.approx(tv, rel=1e-8)


def test_random_allocation_with_hardly_any_noise_bounds_nothing():
    assert allocation_tv(0.01, 10, 5) == pytest.approx(1.0)


# --- limits --------------------------------------------------------------------------------------

LIMITS = [  # steps, threshold, formula of the paper, gain at h = t, at the best h, Poisson
    (10, 0.4659906018, 0.2878266297, 0.2962026259, 0.3093733616, None),
    (100, 0.3295051145, 0.3070775523, 0.3130712029, 0.3251960239, 0.24986024),
    (1000, 0.2690397994, 0.3156060275, 0.3196083428, 0.3302869604, 0.25416756),
    (10_000, 0.2329953009, 0.3206900101, 0.3235852755, 0.3332054063, 0.25700220),
    (1_000_000, 0.1902398666, 0.3267205528, 0.3285311732, 0.3367620475, 0.26056301),
]


@pytest.mark.parametrize(("m", "threshold", "formula", "shift", "best", "poisson"), LIMITS)
def test_limits_are_their_reference_values(m, threshold, formula, shift, best, poisson):
    z = noise_threshold(m)
    assert z == pytest.approx(threshold, abs=1e-10)
    assert shuffled_kappa(z, m) == pytest.approx(best, abs=1e-10)
    assert formula < shift < best
    if poisson is not None:
        assert poisson_kappa(z, m) == pytest.approx(poisson, abs=1e-8)


@pytest.mark.slow
def test_no_test_beats_the_exact_kappa_of_poisson_sampling():
    z = noise_threshold(100)
    event = PoissonGaussian(sampling_prob=0.01, noise_multiplier=z, count=100)
    exact = tradeoff([event]).kappa
    assert exact == pytest.approx(0.25589994, abs=1e-7)
    assert poisson_kappa(z, 100) < exact


def test_a_plan_with_too_little_noise_is_warned_of_in_one_sentence():
    sentence = warning(0.2, 1000)
    assert sentence.startswith("noise_multiplier 0.2 is below 0.269, the least for 1000 batches")
    assert sentence.count(". ") == 0
    assert sentence.endswith("82%.")
    assert warning(0.27, 1000) is None
    assert warning(0.01, 1) is None


def test_the_kappa_of_a_test_falls_with_noise():
    found = [shuffled_kappa(z, 1000) for z in np.linspace(0.1, 3.0, 20)]
    assert found == sorted(found, reverse=True)
