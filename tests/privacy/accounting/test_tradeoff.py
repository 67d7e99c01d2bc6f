"""Trade-off functions: reference values, duality, subsampling, composition, groups."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedsim.core.errors import PrivacyError
from privacy.accounting import FixedSize, Gaussian, PoissonGaussian, account, tradeoff
from privacy.accounting.fdp.conversions import compose, from_rdp
from privacy.accounting.fdp.from_pairs import approximate, from_pairs
from privacy.accounting.fdp.tradeoff import (
    from_delta,
    gaussian,
    group,
    identity,
    mixed,
    subsampled,
    symmetrised,
)
from privacy.accounting.gaussian import epsilon_of

ALPHAS = np.linspace(0, 1, 201)
EPSILONS = np.linspace(0, 8, 33)


def poisson(z, q, t):
    return PoissonGaussian(sampling_prob=q, noise_multiplier=z, count=t)


def anonymous(mu):
    """A Gaussian that does not say that it is one."""
    return from_delta(gaussian(mu).forward)


FAMILY = {
    "identity": identity(),
    "gaussian": gaussian(1.0),
    "a Gaussian of its profile": anonymous(1.3),
    "approximate": approximate(1.0, 0.01),
    "pairs": from_pairs([(0.5, 0.2), (1.0, 0.1), (3.0, 1e-3)]),
    "subsampled": subsampled(gaussian(1.0), 0.3),
    "half of a mixture": mixed(gaussian(1.0), 0.3),
    "its inverse": mixed(gaussian(1.0), 0.3).inverse(),
    "a group": group(approximate(0.5, 0.01), 2),
    "composed": compose(mixed(gaussian(1.0), 0.3), mixed(gaussian(2.0), 0.1)),
    "Renyi": from_rdp([1.5, 2.0, 4.0, 16.0], [0.75, 1.0, 2.0, 8.0]),
}
SYMMETRIC = [name for name in FAMILY if name not in ("half of a mixture", "its inverse")]


# --- what every trade-off function is ------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
def test_it_is_convex_non_increasing_and_at_most_one_minus_alpha(name):
    f = FAMILY[name](ALPHAS)
    assert ((f >= 0) & (f <= 1 - ALPHAS)).all()
    assert (np.diff(f) <= 1e-12).all()
    assert (np.diff(f, 2) >= -1e-9).all()


@pytest.mark.parametrize("name", FAMILY)
def test_delta_falls_with_epsilon_and_is_convex_in_e_to_the_epsilon(name):
    x = np.linspace(1, 60, 200)
    delta = FAMILY[name].delta(np.log(x))
    assert ((delta >= 0) & (delta <= 1)).all()
    assert (np.diff(delta) <= 1e-12).all()
    assert (np.diff(delta, 2) >= -1e-9).all()


@pytest.mark.parametrize("name", SYMMETRIC)
def test_a_symmetric_one_is_its_own_inverse(name):
    f = FAMILY[name]
    assert f.inverse() is f
    positive = ALPHAS[f(ALPHAS) > 1e-9]
    assert f(f(positive)) == pytest.approx(positive, abs=2e-6)


@pytest.mark.parametrize("name", FAMILY)
def test_curve_to_delta_and_back_is_the_same_curve(name):
    f = FAMILY[name]
    assert from_delta(f.forward, f.backward)(ALPHAS) == pytest.approx(f(ALPHAS), abs=1e-9)


@pytest.mark.parametrize("name", FAMILY)
def test_delta_is_the_conjugate_of_the_curve(name):
    f, dense = FAMILY[name], np.linspace(0, 1, 2001)
    both = np.stack([f(dense), f.inverse()(dense)])
    for epsilon in (0.0, 0.5, 2.0):
        by_hand = (1 - both - math.exp(epsilon) * dense).max()
        assert f.delta(epsilon) == pytest.approx(by_hand, abs=3e-3)
        assert f.delta(epsilon) >= by_hand - 1e-9


@pytest.mark.parametrize("name", FAMILY)
def test_kappa_is_total_variation_over_the_root_of_2(name):
    f = FAMILY[name]
    distance = ((1 - ALPHAS - f(ALPHAS)) / math.sqrt(2)).max()
    assert f.kappa == f.tv / math.sqrt(2)
    assert distance - 1e-9 <= f.kappa <= distance + 5e-3
    assert f.tv == f.delta(0.0)


@pytest.mark.parametrize("name", FAMILY)
def test_epsilon_inverts_delta(name):
    f = FAMILY[name]
    delta = 0.3 * f.tv
    epsilon = f.epsilon(delta) if f.tv else math.inf
    if math.isfinite(epsilon):
        assert f.delta(epsilon) <= delta * (1 + 1e-9)
        assert f.delta(epsilon - 1e-3) > delta


# --- Gaussian, and pairs -------------------------------------------------------------------------


def test_perfect_privacy_is_the_diagonal():
    assert (identity()(ALPHAS) == 1 - ALPHAS).all()
    assert identity().tv == 0.0
    assert identity().epsilon(1e-9) == 0.0


def test_no_privacy_is_no_error():
    assert (gaussian(math.inf)(ALPHAS) == 0).all()
    assert gaussian(math.inf).epsilon(0.5) == math.inf


def test_a_gaussian_has_the_epsilon_of_the_closed_form():
    assert gaussian(1.0).epsilon(1e-5) == epsilon_of(1e-5, 1.0)
    assert anonymous(1.0).epsilon(1e-5) == pytest.approx(epsilon_of(1e-5, 1.0), rel=1e-10)
    assert gaussian(1.0)(np.array([0.1, 0.01, 0.5])) == pytest.approx(
        [0.61085631, 0.90763775, 0.15865525], abs=5e-9
    )


def test_approximate_is_its_three_lines():
    expected = np.maximum(0.99 - math.e * ALPHAS, (0.99 - ALPHAS) / math.e).clip(min=0)
    assert approximate(1.0, 0.01)(ALPHAS) == pytest.approx(expected, abs=1e-15)
    assert approximate(1.0, 0.01).delta([1.0, 5.0]) == pytest.approx(0.01)


def test_many_pairs_of_a_gaussian_approach_it_from_below():
    pairs = [(e, float(gaussian(1.0).delta(e))) for e in np.linspace(0, 8, 400)]
    found, exact = from_pairs(pairs)(ALPHAS), gaussian(1.0)(ALPHAS)
    assert (found <= exact + 1e-12).all()
    assert found == pytest.approx(exact, abs=3e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=6))
def test_pairs_intersect_their_half_planes(pairs):
    expected = np.zeros_like(ALPHAS)
    for e, d in pairs:
        steep, flat = 1 - d - math.exp(e) * ALPHAS, math.exp(-e) * (1 - d - ALPHAS)
        expected = np.maximum(expected, np.maximum(steep, flat))
    f = from_pairs(pairs)
    assert f(ALPHAS) == pytest.approx(expected, abs=1e-9)
    for e, d in pairs:
        assert f.delta(e) <= d + 1e-9


# --- subsampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "mu", "alphas", "expected"),
    [
        (
            0.01,
            1.0,
            [0.001, 0.05, 0.5, 0.9],
            [0.998827015316, 0.947904889772, 0.496170750775, 0.097142929864],
        ),
        (
            0.5,
            1.0,
            [0.01, 0.1, 0.5, 0.9],
            [0.948818875963, 0.755428154177, 0.308537538726, 0.026228427228],
        ),
        (0.1, 0.5, [0.25], [0.731925970732]),
    ],
)
def test_a_subsampled_gaussian_has_its_reference_values(p, mu, alphas, expected):
    assert subsampled(gaussian(mu), p)(alphas) == pytest.approx(expected, abs=1e-11)


REMOVE = [(0.01, 1, 0, 3.8292492254803e-3), (0.01, 1, 0.1, 7.2900376957612e-5)]
REMOVE += [(0.01, 1, 1, 2.7320092615461e-9), (0.1, 2, 0.1, 2.3642097069165e-3)]
REMOVE += [(0.5, 1, 0.5, 7.9944624601382e-2), (0.5, 1, 2, 2.2721464925504e-3)]
ADD = [(0.01, 1, 0, 3.8292492254803e-3), (0.01, 1, 0.1, 0.0), (0.01, 1, 1, 0.0)]
ADD += [(0.1, 2, 0.1, 1.2805861450e-12), (0.5, 1, 0.5, 9.1571027831086e-3), (0.5, 1, 2, 0.0)]


@pytest.mark.parametrize(("order", "rows"), [("forward", REMOVE), ("backward", ADD)])
def test_the_two_orders_of_a_sampled_step_have_their_reference_values(order, rows):
    for q, z, epsilon, delta in rows:
        found = getattr(mixed(gaussian(1 / z), q), order)(np.array([float(epsilon)]))
        assert found == pytest.approx(delta, rel=1e-8, abs=1e-18)


def test_a_mixture_follows_p_f_and_then_a_line_and_then_its_inverse():
    p, mu, f = 0.3, 1.0, gaussian(1.0)
    whole, half = subsampled(f, p), mixed(f, p)
    fixed = float(norm.cdf(-mu / 2))  # where f is its own argument
    below = ALPHAS[fixed >= ALPHAS]
    assert whole(below) == pytest.approx(half(below), abs=1e-9)
    assert half(ALPHAS) == pytest.approx(p * f(ALPHAS) + (1 - p) * (1 - ALPHAS), abs=1e-15)
    above = ALPHAS[float(half(fixed)) <= ALPHAS]
    assert whole(above) == pytest.approx(half.inverse()(above), abs=1e-9)


def test_an_inverse_undoes_the_curve():
    f = mixed(gaussian(1.0), 0.3)
    assert f.inverse()(f(ALPHAS)) == pytest.approx(ALPHAS, abs=1e-9)
    assert f.inverse().inverse()(ALPHAS) == pytest.approx(f(ALPHAS), abs=1e-9)


def test_sampling_everyone_is_no_sampling_and_nobody_is_perfect_privacy():
    f = gaussian(1.0)
    assert subsampled(f, 1.0) is f
    assert (subsampled(f, 0.0)(ALPHAS) == 1 - ALPHAS).all()


def test_symmetrised_is_below_both_orders():
    f = mixed(gaussian(2.0), 0.2)
    lower = np.minimum(f(ALPHAS), f.inverse()(ALPHAS))
    assert (symmetrised(f)(ALPHAS) <= lower + 1e-12).all()


# --- composition and groups ----------------------------------------------------------------------


def test_composed_with_perfect_privacy_it_is_unchanged():
    f = subsampled(gaussian(1.0), 0.2)
    assert compose(f, identity()) is f
    assert compose(identity(), f) is f


def test_gaussians_compose_exactly():
    assert compose(gaussian(3.0), gaussian(4.0)).mu == 5.0


def test_numerical_composition_of_gaussians_is_below_the_exact_one_and_near():
    found = compose(anonymous(1.0), anonymous(1.0))
    exact = gaussian(math.sqrt(2))
    assert (found(ALPHAS) <= exact(ALPHAS) + 1e-9).all()
    assert found(ALPHAS) == pytest.approx(exact(ALPHAS), abs=1e-6)
    assert 0 <= found.epsilon(1e-5) - exact.epsilon(1e-5) < 1e-5


def test_composition_of_pure_privacy_is_that_of_randomised_response():
    e = 0.7
    truth = math.exp(e) / (1 + math.exp(e))  # two answers: the losses are 2e, 0 and -2e
    found = compose(approximate(e, 0.0), approximate(e, 0.0))
    for epsilon in (0.0, 0.5, 1.0):
        exact = truth**2 - math.exp(epsilon) * (1 - truth) ** 2
        assert found.delta(epsilon) == pytest.approx(exact, abs=1e-4)
        assert found.delta(epsilon) >= exact - 1e-9


def test_composition_commutes():
    f, g = approximate(0.5, 1e-3), mixed(gaussian(1.0), 0.2)
    assert compose(f, g)(ALPHAS) == pytest.approx(compose(g, f)(ALPHAS), abs=1e-9)


def test_two_mixtures_compose_to_two_sampled_steps():
    half = mixed(gaussian(1.0), 0.3)
    expected = account([poisson(1.0, 0.3, 2)], 1e-5).epsilon
    assert compose(half, half).epsilon(1e-5) == pytest.approx(expected, rel=1e-4)


def test_groups_of_a_gaussian_multiply_mu():
    assert group(gaussian(0.5), 4).mu == 2.0
    assert group(gaussian(0.5), 1).mu == 0.5


def test_a_group_of_many_by_its_curve_is_the_gaussian_of_many_mu():
    found = group(
        from_pairs([(e, float(gaussian(1.0).delta(e))) for e in np.linspace(0, 9, 900)]), 3
    )
    assert found(ALPHAS) == pytest.approx(gaussian(3.0)(ALPHAS), abs=1e-4)
    assert (found(ALPHAS) <= gaussian(3.0)(ALPHAS) + 1e-12).all()
    assert found.tv == pytest.approx(gaussian(3.0).tv, abs=1e-4)


def test_a_group_of_pure_privacy_has_at_most_the_multiple_of_epsilon():
    found = group(approximate(0.5, 0.0), 3)
    assert (found(ALPHAS) >= approximate(1.5, 0.0)(ALPHAS) - 1e-12).all()
    assert found(0.01) == pytest.approx(1 - 0.01 * math.exp(1.5), abs=1e-12)
    assert found.epsilon(1e-9) == pytest.approx(1.5, abs=1e-6)


# --- from events ---------------------------------------------------------------------------------

AT = [0.001, 0.01, 0.05, 0.1, 0.25, 0.5]
CURVES = [
    pytest.param(
        poisson(1, 0.01, 1000),
        0.1610184208,
        0.1138572172,
        [0.99593153, 0.97086079, 0.88899810, 0.80579833, 0.60364998, 0.34142295],
    ),
    pytest.param(
        poisson(1, 100 / 3400, 1500),
        0.5235836115,
        0.3702295222,
        [0.94489802, 0.80409154, 0.57717880, 0.43712440, 0.22649035, 0.07430760],
        marks=pytest.mark.slow,
    ),
    pytest.param(
        poisson(2, 0.1, 200),
        0.2879822772,
        0.2036342211,
        [0.98974304, 0.94097734, 0.81337634, 0.70256114, 0.47307243, 0.22876964],
        marks=pytest.mark.slow,
    ),
    pytest.param(
        poisson(0.7, 0.001, 2000),
        0.0449128379,
        0.0317581722,
        [0.99831232, 0.98569079, 0.93547773, 0.87672338, 0.71136445, 0.45508716],
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("event", "tv", "kappa", "curve"), CURVES)
def test_the_curve_of_a_private_run_has_its_reference_values(event, tv, kappa, curve):
    f = tradeoff([event])
    assert f.tv == pytest.approx(tv, abs=2e-10)
    assert f.kappa == pytest.approx(kappa, abs=2e-10)
    assert f(AT) == pytest.approx(curve, abs=2e-7)
    assert f.epsilon(1e-5) == pytest.approx(account([event], 1e-5).epsilon, rel=1e-6)


def test_the_central_limit_curve_is_above_the_true_one_where_attacks_are_best():
    mu = 0.01 * math.sqrt(1000 * math.expm1(1.0))
    assert mu == pytest.approx(0.4145216313, rel=1e-9)
    limit = gaussian(mu)
    assert limit.tv == pytest.approx(0.1641938258, rel=1e-9)
    assert limit(AT[:4]) == pytest.approx(
        [0.99627145, 0.97205076, 0.89071360, 0.80703720], abs=1e-8
    )
    assert (limit(AT[:4]) > tradeoff([poisson(1, 0.01, 1000)])(AT[:4])).all()


def test_gaussian_events_have_the_closed_form_curve():
    f = tradeoff([Gaussian(mu=3.0), Gaussian(mu=2.0, count=4)])
    assert f.mu == pytest.approx(5.0)


def test_without_replacement_the_curve_is_that_of_its_divergences():
    event = FixedSize(population=10_000, cohort=100, noise_multiplier=2.0, count=100)
    f = tradeoff([event])
    assert 0 < f.tv < 1
    assert f.epsilon(1e-5) <= account([event], 1e-5).epsilon + 1e-3


# --- Renyi divergences ---------------------------------------------------------------------------


def least_error(alpha, order, divergence):
    """The smallest type-II error that one order allows, in both directions, by bisection."""

    def moment(a, b):
        return np.logaddexp(
            order * math.log(1 - b) + (1 - order) * math.log(a),
            order * math.log(b) + (1 - order) * math.log(1 - a),
        )

    def fits(a, b):
        return max(moment(a, b), moment(b, a)) <= (order - 1) * divergence

    low, high = 1e-12, 1 - alpha
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(alpha, middle) else (middle, high)
    return high


def test_renyi_divergences_of_a_gaussian_lose_what_they_are_known_to_lose():
    orders = np.concatenate([np.arange(1.01, 4, 0.01), np.arange(4, 40)]).tolist()
    f = from_rdp(orders, [order / 2 for order in orders])
    assert (f(ALPHAS) <= gaussian(1.0)(ALPHAS) + 1e-12).all()
    for alpha, known in ((0.1, 0.51627155), (0.01, 0.87541080), (0.5, 0.10701550)):
        by_hand = max(least_error(alpha, order, order / 2) for order in orders)
        assert by_hand == pytest.approx(known, abs=1e-7)
        assert f(alpha) == pytest.approx(by_hand, abs=2e-6)
        assert f(alpha) <= by_hand + 1e-9


def test_an_infinite_divergence_says_nothing():
    assert from_rdp([2.0], [math.inf])(ALPHAS) == pytest.approx(0, abs=1e-9)
    assert from_rdp([2.0, 3.0], [1.0, math.inf])(ALPHAS) == pytest.approx(
        from_rdp([2.0], [1.0])(ALPHAS)
    )


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda: gaussian(-1.0),
        lambda: gaussian(math.nan),
        lambda: approximate(-1.0, 0.1),
        lambda: approximate(math.inf, 0.1),
        lambda: approximate(1.0, 1.1),
        lambda: approximate(1.0, math.nan),
        lambda: from_pairs([]),
        lambda: mixed(gaussian(1.0), 1.5),
        lambda: subsampled(gaussian(1.0), math.nan),
        lambda: group(gaussian(1.0), 0),
        lambda: group(gaussian(1.0), 1.5),
        lambda: gaussian(1.0)(1.5),
        lambda: gaussian(1.0)([0.1, math.nan]),
        lambda: gaussian(1.0).delta(-0.1),
        lambda: gaussian(1.0).epsilon(0.0),
        lambda: from_rdp([], []),
        lambda: from_rdp([2.0], [1.0, 2.0]),
        lambda: from_rdp([1.0], [1.0]),
        lambda: from_rdp([2.0], [-1.0]),
        lambda: from_rdp([2.0], [math.nan]),
    ],
)
def test_bad_input_is_refused(ask):
    with pytest.raises(PrivacyError, match="must be"):
        ask()
