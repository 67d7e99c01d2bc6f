"""From events to epsilon: reference values, refusals, and which accountant may speak."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

from fedsim.core.errors import PrivacyError
from privacy.accounting import (
    FixedSize,
    Gaussian,
    PoissonGaussian,
    PoissonReplace,
    Shuffled,
    TruncatedPoisson,
    Unsupported,
    account,
    beside,
    calibrate,
    epsilon,
    pld,
    rdp_epsilon,
    tradeoff,
)
from privacy.accounting import rdp as renyi
from privacy.accounting.gaussian import delta_of, epsilon_of
from privacy.accounting.pld import composed


def grids_built():
    """How many distributions of privacy losses have been built so far: the slow part."""
    return pld._one.cache_info().misses + composed.cache_info().misses


def poisson(noise_multiplier, sampling_prob, count, overflow=0.0):
    return PoissonGaussian(
        sampling_prob=sampling_prob,
        noise_multiplier=noise_multiplier,
        count=count,
        overflow=overflow,
    )


def capped(cap, count=1000):
    return TruncatedPoisson(
        sampling_prob=0.01, noise_multiplier=1.0, population=10_000, cap=cap, count=count
    )


def fixed(noise_multiplier=1.0, cohort=100, count=1000):
    return FixedSize(
        population=10_000, cohort=cohort, noise_multiplier=noise_multiplier, count=count
    )


# --- reference values ----------------------------------------------------------------------------

# noise multiplier, sampling probability, steps, delta: losses, Opacus PRV, dp-accounting RDP,
# Opacus RDP, and the central limit theorem.
TABLE = [
    (1, 1, 1, 1e-5, 4.377178, 4.387414, 4.728507, 4.728507, 6.007077),
    (10, 1, 100, 1e-5, 4.377179, 4.387413, 4.728507, 4.728507, 4.389878),
    (2, 0.1, 200, 1e-4, 2.866176, 2.876404, 3.196713, 3.196685, 2.727856),
    (1, 100 / 3400, 1500, 1 / 3400, 5.968428, 5.978906, 6.697354, 6.696513, 5.732145),
    (1, 0.01, 1000, 1e-5, 1.828244, 1.838372, 2.101367, 2.101365, 1.617712),
    (0.7, 0.001, 2000, 1e-7, 1.590157, 1.600358, 2.560811, 2.560810, 0.521747),
    (1.1, 256 / 60000, 14063, 1e-5, 2.381779, 2.391837, 2.596656, 2.596656, 2.324362),
    (50, 1, 2000, 1e-6, 4.305851, 4.316032, 4.604529, 4.604529, 4.306328),
    (100, 0.05, 100, 1e-5, 0.012578, 0.022755, 0.014783, 0.103655, 0.012514),
]
SLOW = [
    (1, 0.01, 10_000, 1e-5, 6.187745, 6.198044, 6.712757, 6.712738, 6.007077),
    (0.5, 0.001, 2000, 1e-7, 5.609430, 5.619845, 6.744272, 6.744028, 1.577049),
    (1, 0.1, 200, 1e-4, 8.607219, 8.617839, 9.738537, 9.670039, 8.067749),
    (0.3, 0.001, 2000, 1e-7, 30.161563, 30.173437, 34.525474, 34.477413, 126.230563),
    (1, 0.01, 1_000_000, 1e-5, 139.031357, None, 150.911202, 145.166837, 140.954809),
    (5, 0.5, 10_000, 1e-6, 97.426893, None, 113.939190, 101.472100, 98.208651),
]
ROWS = [pytest.param(*row) for row in TABLE] + [
    pytest.param(*row, marks=pytest.mark.slow) for row in SLOW
]


@pytest.mark.parametrize(("z", "q", "t", "delta", "losses", "prv", "rdp", "orders", "clt"), ROWS)
def test_every_accountant_gives_its_reference_value(z, q, t, delta, losses, prv, rdp, orders, clt):
    report = account([poisson(z, q, t)], delta)
    # Never above the value on the grid of 1e-4; below it where the closed form applies, or a
    # finer grid was worth it.
    assert report.epsilon <= losses * (1 + 1e-7) + 1e-6
    room = 5e-3 if losses < 0.2 else 3e-6 if q == 1 else 1e-7
    assert report.epsilon == pytest.approx(losses, rel=room, abs=1e-6)
    assert report.guarantee
    assert report.lower == report.epsilon
    found = beside([poisson(z, q, t)], delta)
    assert found["dp-accounting RDP"] == pytest.approx(rdp, abs=1e-6)
    assert found["Opacus RDP"] == pytest.approx(orders, abs=1e-6)
    assert found["CLT (approximate, not a guarantee)"] == pytest.approx(clt, abs=1e-6)
    assert found["Opacus PRV"] == (prv if prv is None else pytest.approx(prv, abs=1e-6))
    assert report.epsilon <= rdp_epsilon([poisson(z, q, t)], delta) + 1e-3
    assert rdp_epsilon([poisson(z, q, t)], delta) <= found["dp-accounting RDP"] * (1 + 1e-8)


@pytest.mark.slow
def test_a_tiny_epsilon_is_found_on_a_finer_grid():
    report = account([poisson(0.8, 1e-5, 100_000)], 1e-10)
    assert report.grid < 1e-4
    assert report.epsilon == pytest.approx(0.0459, rel=5e-3)


def test_the_central_limit_theorem_would_promise_what_does_not_hold():
    events = [poisson(0.7, 0.001, 2000)]
    clt = beside(events, 1e-7)["CLT (approximate, not a guarantee)"]
    assert account(events, 1e-7).epsilon > 3 * clt
    assert [name for name in beside(events, 1e-7) if "CLT" in name] == [
        "CLT (approximate, not a guarantee)"
    ]


RENYI = [
    (1, 0.01, {2: 1.71813422074548e-4, 3: 2.64637574584661e-4, 8: 8.93643907606032e-4}),
    (1, 0.01, {32: 11.2462759370481, 64: 27.3217318745518}),
    (2, 0.1, {2: 2.83622826626362e-3, 8: 1.37254301032199e-2, 32: 1.62720230101944}),
]


@pytest.mark.parametrize(("z", "q", "expected"), RENYI)
def test_renyi_divergences_are_those_of_the_binomial_formula(z, q, expected):
    found = dict(zip(renyi.ORDERS, renyi.rdp([poisson(z, q, 1)]), strict=True))
    for order, value in expected.items():
        k = np.arange(order + 1)
        binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
        weights = (order - k) * math.log1p(-q) + k * math.log(q)
        formula = logsumexp(binomial + weights + (k**2 - k) / (2 * z**2)) / (order - 1)
        assert value == pytest.approx(formula, rel=1e-9)
        assert found[order] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(("order", "exact"), [(1.5, 1.272537433274e-4), (2.5, 2.175753322819e-4)])
def test_renyi_divergences_of_fractional_orders_are_bounded_from_above(order, exact):
    def integrand(x):
        return norm.pdf(x) * (0.99 + 0.01 * math.exp(x - 0.5)) ** order

    integral, _ = quad(integrand, -12, 14, epsabs=1e-15, limit=200)
    assert math.log(integral) / (order - 1) == pytest.approx(exact, rel=1e-6)
    found = dict(zip(renyi.ORDERS, renyi.rdp([poisson(1, 0.01, 1)]), strict=True))
    assert exact <= found[order] < 1.05 * exact


def test_renyi_divergences_of_a_gaussian_are_half_its_order_times_mu_squared():
    np.testing.assert_allclose(renyi.rdp([Gaussian(mu=2.0)]), 2 * np.array(renyi.ORDERS))


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        (130, 3.684075),
        pytest.param(200, 1.828244, marks=pytest.mark.slow),
        pytest.param(100, 10.773008, marks=pytest.mark.slow),
        pytest.param(110, 7.681989, marks=pytest.mark.slow),
        pytest.param(120, 5.297169, marks=pytest.mark.slow),
        pytest.param(150, 1.830466, marks=pytest.mark.slow),
    ],
)
def test_a_low_cap_on_the_batch_is_paid_for_and_a_high_one_is_free(cap, expected):
    assert account([capped(cap)], 1e-5).epsilon == pytest.approx(expected, abs=1e-6)


def test_a_cap_that_is_never_reached_is_no_cap():
    assert account([capped(10_000)], 1e-5) == account([poisson(1.0, 0.01, 1000)], 1e-5)


def test_a_cohort_without_replacement_is_accounted_by_renyi_with_twice_the_sensitivity():
    report = account([fixed()], 1e-5)
    assert report.epsilon == pytest.approx(20.987072, abs=1e-6)
    assert report.method == "rdp"


def test_poisson_sampling_costs_more_when_a_unit_is_replaced():
    event = PoissonReplace(sampling_prob=0.01, noise_multiplier=1.0, count=1000)
    assert account([event], 1e-5).epsilon == pytest.approx(2.843446, abs=1e-6)


def test_replacing_a_unit_that_always_takes_part_has_twice_the_sensitivity():
    expected = epsilon_of(1e-5, 2.0)
    event = PoissonReplace(sampling_prob=1.0, noise_multiplier=1.0, count=1)
    assert account([event], 1e-5).epsilon == expected
    assert account([fixed(cohort=10_000, count=1)], 1e-5).epsilon == expected


# --- shuffled batches ----------------------------------------------------------------------------


def test_shuffled_batches_are_an_interval_and_never_the_poisson_number():
    report = account([Shuffled(noise_multiplier=1.0, batches=1000, epochs=1)], 1e-6)
    assert report.lower == pytest.approx(3.723891, abs=1e-6)
    assert report.epsilon == epsilon_of(1e-6, 1.0)
    assert account([poisson(1.0, 0.001, 1000)], 1e-6).epsilon < 0.2


def test_more_shuffled_epochs_cost_like_that_many_releases_and_leak_at_least_one():
    one, four = (Shuffled(noise_multiplier=2.0, batches=100, epochs=e) for e in (1, 4))
    report = account([four], 1e-6)
    assert report.epsilon == epsilon_of(1e-6, 1.0)
    assert report.lower == account([one], 1e-6).lower
    assert account([one, one, one, one], 1e-6) == report


# --- what an answer must be ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [],
        [poisson(1.0, 0.01, 0)],
        [poisson(1.0, 0.0, 1000)],
        [poisson(0.0, 0.0, 1000)],
        [Gaussian(mu=0.0, count=5)],
        [Gaussian(mu=math.inf, count=0)],
        [capped(100, count=0)],
        [fixed(cohort=0)],
        [Shuffled(noise_multiplier=1.0, batches=10, epochs=0)],
    ],
)
def test_nothing_released_costs_exactly_0(events):
    assert account(events, 1e-5).epsilon == 0.0
    assert epsilon(events, 1e-5) == 0.0
    assert rdp_epsilon(events, 1e-5) == 0.0
    assert tradeoff(events)(0.3) == 0.7


@pytest.mark.parametrize(
    "event",
    [
        Gaussian(mu=math.inf),
        poisson(0.0, 0.01, 1),
        TruncatedPoisson(sampling_prob=0.1, noise_multiplier=0.0, population=100, cap=5, count=1),
        fixed(noise_multiplier=0.0),
        PoissonReplace(sampling_prob=0.1, noise_multiplier=0.0, count=1),
        Shuffled(noise_multiplier=0.0, batches=10, epochs=1),
    ],
)
def test_noise_of_exactly_0_costs_an_infinite_epsilon(event):
    report = account([event, Gaussian(mu=1.0)], 1e-5)
    assert report.epsilon == math.inf
    assert not report.guarantee
    assert report.reason
    assert float(tradeoff([event])(0.0)) == 0.0


def test_an_unsupported_event_gives_no_number():
    events = [poisson(1.0, 0.01, 10), Unsupported(reason="The error memory is not bounded.")]
    report = account(events, 1e-5)
    assert report.epsilon is None
    assert report.lower is None
    assert not report.guarantee
    assert report.reason == "The error memory is not bounded."
    assert epsilon(events, 1e-5) is None
    assert rdp_epsilon(events, 1e-5) is None
    with pytest.raises(PrivacyError, match="not bounded"):
        tradeoff(events)


def test_the_order_of_events_does_not_matter_and_equal_ones_are_grouped():
    a, b = poisson(1.0, 0.01, 500), poisson(2.0, 0.05, 100)
    expected = account([a, b, a], 1e-5)
    assert account([b, poisson(1.0, 0.01, 1000)], 1e-5) == expected
    assert expected.epsilon > account([poisson(1.0, 0.01, 1000)], 1e-5).epsilon


def test_gaussians_and_samples_compose_to_less_than_their_sum():
    both = account([poisson(1.0, 0.01, 1000), Gaussian(mu=0.5)], 1e-5).epsilon
    first = account([poisson(1.0, 0.01, 1000)], 1e-5).epsilon
    assert max(first, epsilon_of(1e-5, 0.5)) < both < first + epsilon_of(1e-5, 0.5)


@pytest.mark.parametrize(
    "events",
    [
        [poisson(1.0, 0.01, 10), fixed()],
        [PoissonReplace(sampling_prob=0.1, noise_multiplier=1.0, count=1), capped(100)],
        [
            fixed(),
            PoissonReplace(sampling_prob=0.1, noise_multiplier=1.0, count=1),
        ],
    ],
)
def test_events_of_two_neighbouring_relations_or_samplers_are_refused(events):
    for ask in (account, epsilon, rdp_epsilon, beside):
        with pytest.raises(PrivacyError, match="events must be of one"):
            ask(events, 1e-5)


def test_losses_too_large_for_a_grid_are_bounded_by_renyi_and_no_grid_is_built():
    before = grids_built()
    report = account([poisson(0.05, 0.01, 1000)], 1e-5)
    assert grids_built() == before
    assert report.method == "rdp"
    assert report.epsilon <= epsilon_of(1e-5, math.sqrt(1000) / 0.05)


def test_a_delta_below_the_rounding_of_a_grid_is_bounded_by_renyi():
    report = account([poisson(1.0, 0.01, 1000)], 1e-15)
    assert report.method == "rdp"
    assert report.epsilon == pytest.approx(5.284054, abs=1e-4)


def test_sampling_is_never_reported_as_worse_than_no_sampling():
    assert epsilon([poisson(1.0, 0.9999, 3)], 1e-5) <= epsilon_of(1e-5, math.sqrt(3))


# --- batches cut short ---------------------------------------------------------------------------


def test_an_overflow_costs_delta_the_union_bound():
    count, overflow, delta = 1000, 1e-10, 1e-5
    found = account([poisson(1.0, 0.01, count, overflow)], delta).epsilon
    exact = composed((poisson(1.0, 0.01, count),), 1e-4).get_delta_for_epsilon(found)
    total = exact + (1 + math.exp(found)) * count * overflow
    assert total <= delta
    assert total == pytest.approx(delta, rel=1e-6)


def test_an_overflow_is_paid_by_every_accountant():
    for events in ([poisson(1.0, 1.0, 1, 1e-8)], [poisson(0.05, 0.01, 10, 1e-300)]):
        without = [poisson(e.noise_multiplier, e.sampling_prob, e.count) for e in events]
        for ask in (epsilon, rdp_epsilon, lambda e, d: account(e, d).epsilon):
            assert ask(events, 1e-5) > ask(without, 1e-5)
    plain, cut = tradeoff([poisson(1.0, 0.1, 9)]), tradeoff([poisson(1.0, 0.1, 9, 1e-6)])
    assert (cut([0.01, 0.1, 0.5]) < plain([0.01, 0.1, 0.5])).all()
    assert cut.epsilon(1e-3) == pytest.approx(
        account([poisson(1.0, 0.1, 9, 1e-6)], 1e-3).epsilon, rel=1e-4
    )


def test_an_overflow_that_delta_cannot_pay_costs_an_infinite_epsilon():
    report = account([poisson(1.0, 0.01, 1000, 1e-7)], 1e-5)
    assert report.epsilon == math.inf
    assert "cut short" in report.reason


# --- refusals ------------------------------------------------------------------------------------

BAD_NOISE = [-1.0, -0.0001, math.nan, math.inf, -math.inf, True, "1", None]
BAD_COUNT = [-1, 1.5, 3.0, True, math.nan, None]
BAD_PROB = [-0.1, 1.5, math.nan, math.inf, True, None]
BAD_DELTA = [0.0, 1.0, -1e-5, 1.5, math.nan, math.inf, None, True]


def refused(make):
    before = grids_built()
    with pytest.raises(PrivacyError) as caught:
        make()
    assert grids_built() == before
    message = str(caught.value)
    assert "\n" not in message
    assert " must be " in message
    assert "; got " in message


@pytest.mark.parametrize("value", BAD_NOISE)
def test_a_noise_multiplier_that_is_no_finite_number_of_zero_or_more_is_refused(value):
    refused(lambda: poisson(value, 0.01, 10))
    refused(lambda: fixed(noise_multiplier=value))
    refused(lambda: PoissonReplace(sampling_prob=0.1, noise_multiplier=value, count=1))
    refused(lambda: Shuffled(noise_multiplier=value, batches=10, epochs=1))
    refused(
        lambda: TruncatedPoisson(
            sampling_prob=0.1, noise_multiplier=value, population=10, cap=5, count=1
        )
    )
    if value != math.inf:
        refused(lambda: Gaussian(mu=value))


@pytest.mark.parametrize("value", BAD_COUNT)
def test_a_count_that_is_no_whole_number_of_zero_or_more_is_refused(value):
    refused(lambda: poisson(1.0, 0.01, value))
    refused(lambda: Gaussian(mu=1.0, count=value))
    refused(lambda: fixed(count=value))
    refused(lambda: fixed(cohort=value))
    refused(lambda: capped(100, count=value))
    refused(lambda: capped(value))
    refused(lambda: Shuffled(noise_multiplier=1.0, batches=10, epochs=value))
    refused(lambda: Shuffled(noise_multiplier=1.0, batches=value, epochs=1))


@pytest.mark.parametrize("value", BAD_PROB)
def test_a_probability_outside_0_and_1_is_refused(value):
    refused(lambda: poisson(1.0, value, 10))
    refused(lambda: poisson(1.0, 0.1, 10, value))
    refused(lambda: PoissonReplace(sampling_prob=value, noise_multiplier=1.0, count=1))


@pytest.mark.parametrize("value", BAD_DELTA)
def test_a_delta_outside_0_and_1_is_refused_before_any_accountant_is_called(value):
    events = [poisson(1.0, 0.01, 10)]
    for ask in (account, epsilon, rdp_epsilon, beside):
        refused(lambda ask=ask: ask(events, value))
    refused(lambda: calibrate(lambda z: [poisson(z, 0.01, 10)], 1.0, value))


def test_what_is_no_event_is_refused():
    refused(lambda: account(["poisson"], 1e-5))
    refused(lambda: fixed(cohort=10_001))


EXTREME = [
    poisson(1000.0, 1e-6, 10**9),
    poisson(1e9, 0.5, 10**15),
    poisson(1e-200, 0.5, 10),
    poisson(1.0, 1e-12, 10),
    pytest.param(poisson(1.0, 1 - 1e-12, 10), marks=pytest.mark.slow),
    poisson(1.0, 0.01, 10**15),
    Gaussian(mu=1e-200),
    Gaussian(mu=1e200),
    FixedSize(population=10**6, cohort=1, noise_multiplier=1e-3, count=10),
    PoissonReplace(sampling_prob=0.5, noise_multiplier=0.1, count=10),
    Shuffled(noise_multiplier=1e-3, batches=10**6, epochs=1),
]


@pytest.mark.parametrize("event", EXTREME)
def test_extreme_values_take_few_compositions_and_are_never_answered_below_the_truth(event):
    before = composed.cache_info().misses
    events = [event, poisson(1.0, 1.0, 1)]
    if isinstance(event, FixedSize | PoissonReplace):
        events = [event]
    least = 0.0 if len(events) == 1 else epsilon_of(1e-5, 1.0) - 1e-9
    for ask in (epsilon, rdp_epsilon, lambda e, d: account(e, d).epsilon):
        found = ask(events, 1e-5)
        assert found is None or found >= least
    assert composed.cache_info().misses <= before + 4  # a grid and one half as wide, twice
    beside(events, 1e-5)


def test_rounding_never_makes_a_divergence_negative():
    # dp-accounting finds some below 0 here, and would say that epsilon is 0.
    events = [poisson(1e9, 0.5, 10**17)]
    assert (renyi.rdp(events) > 0).all()
    assert account(events, 1e-5).epsilon > epsilon_of(1e-5, 0.15)  # by the limit theorem 0.158
    assert beside(events, 1e-5)["dp-accounting RDP"] is None


@pytest.mark.slow
def test_the_exact_epsilon_is_never_above_the_quick_one():
    for event in (poisson(0.3, 1e-6, 10_000), poisson(1.0, 0.02, 50)):
        for delta in (1e-12, 1e-9, 1e-5):
            assert account([event], delta).epsilon <= epsilon([event], delta)


# --- the counter of every round ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "q", "t", "delta"),
    [
        (1.0, 0.01, 1000, 1e-5),
        (1.0, 0.01, 1, 1e-5),
        (2.0, 0.01, 10, 1e-5),
        (2.0, 0.1, 200, 1e-4),
        (1.0, 100 / 3400, 1500, 1 / 3400),
        (0.7, 0.001, 2000, 1e-7),
        (1.1, 256 / 60000, 14063, 1e-5),
    ],
)
def test_the_quick_epsilon_is_within_half_a_percent_of_the_exact_one(z, q, t, delta):
    quick, exact = epsilon([poisson(z, q, t)], delta), account([poisson(z, q, t)], delta).epsilon
    assert exact * (1 - 5e-3) <= quick <= exact * (1 + 5e-3)


def test_the_quick_epsilon_does_not_depend_on_what_was_asked_before():
    from privacy.accounting import composition

    expected = [epsilon([poisson(1.5, 0.02, n)], 1e-5) for n in (1, 7, 50)]
    for cache in (composition._account, composed, pld._one, renyi._one):
        cache.cache_clear()
    assert [epsilon([poisson(1.5, 0.02, n)], 1e-5) for n in (50, 7, 1)] == expected[::-1]


def test_a_growing_count_composes_once_a_question_and_rebuilds_no_single_step():
    events = [poisson(1.0, 0.01, 100)]
    epsilon(events, 1e-5)
    steps, compositions = pld._one.cache_info().misses, composed.cache_info().misses
    spent = []
    for _ in range(8):
        events.append(poisson(1.0, 0.01, 1))
        spent.append(epsilon(events, 1e-5))
    assert spent == sorted(spent)
    assert pld._one.cache_info().misses == steps
    assert composed.cache_info().misses == compositions + 8


# --- monotone ------------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(
    z=st.floats(0.7, 5.0),
    q=st.floats(0.001, 0.9),
    t=st.integers(1, 300),
    more=st.floats(1.05, 2.0),
)
def test_epsilon_falls_with_noise_and_delta_and_grows_with_steps_and_sampling(z, q, t, more):
    base = epsilon([poisson(z, q, t)], 1e-5)
    assert base >= 0
    assert epsilon([poisson(z * more, q, t)], 1e-5) <= base * (1 + 5e-3)
    assert epsilon([poisson(z, q / more, t)], 1e-5) <= base * (1 + 5e-3)
    assert epsilon([poisson(z, q, t + 1)], 1e-5) >= base * (1 - 5e-3)
    assert epsilon([poisson(z, q, t)], 1e-5 * more) <= base * (1 + 5e-3)
    assert base <= rdp_epsilon([poisson(z, q, t)], 1e-5) + 1e-3
    assert base <= epsilon_of(1e-5, math.sqrt(t) / z)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 3.0), min_size=1, max_size=5))
def test_gaussians_compose_as_the_root_of_the_sum_of_squares(mus):
    report = account([Gaussian(mu=mu) for mu in mus], 1e-5)
    assert report.method == "gaussian, closed form"
    assert report.epsilon == pytest.approx(epsilon_of(1e-5, math.hypot(*mus)), rel=1e-9)
    assert delta_of(report.epsilon, math.hypot(*mus)) == pytest.approx(1e-5, rel=1e-6)


def test_the_closed_form_and_losses_on_a_grid_agree():
    grid = composed((Gaussian(mu=1.0),), 1e-4).get_epsilon_for_delta(1e-5)
    assert 0 <= grid - epsilon_of(1e-5, 1.0) < 1e-4


# --- calibration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "t", "delta", "target", "expected"),
    [
        (0.01, 1000, 1e-5, 0.5, 2.38225206),
        (100 / 3400, 1500, 1 / 3400, 2.0, 1.98118054),
        pytest.param(0.01, 1000, 1e-5, 1.0, 1.41463084, marks=pytest.mark.slow),
        pytest.param(0.01, 1000, 1e-5, 2.0, 0.95910294, marks=pytest.mark.slow),
        pytest.param(0.01, 1000, 1e-5, 4.0, 0.73478208, marks=pytest.mark.slow),
        pytest.param(0.01, 1000, 1e-5, 8.0, 0.58625992, marks=pytest.mark.slow),
        pytest.param(100 / 3400, 1500, 1 / 3400, 4.0, 1.24477801, marks=pytest.mark.slow),
        pytest.param(100 / 3400, 1500, 1 / 3400, 8.0, 0.87058261, marks=pytest.mark.slow),
    ],
)
def test_calibrated_noise_is_the_least_of_four_digits_that_keeps_the_promise(
    q, t, delta, target, expected
):
    def events(z):
        return [poisson(z, q, t)]

    found = calibrate(events, target, delta)
    unit = 10 ** (math.floor(math.log10(found)) - 3)
    assert found == pytest.approx(math.ceil(expected / unit) * unit, abs=1e-9)
    assert account(events(found), delta).epsilon <= target


def test_the_closed_form_is_calibrated_to_the_closed_form():
    assert calibrate(lambda z: [Gaussian(mu=1 / z)], 2.0, 1e-5) == 1.994  # 1.99381244564


def test_a_promise_that_no_noise_keeps_is_refused():
    overflow = [poisson(1.0, 0.01, 100, 1e-6)]
    for events in (overflow, [Unsupported(reason="No bound.")], [Gaussian(mu=9.0)]):
        with pytest.raises(PrivacyError, match="calibrate: epsilon must be attainable"):
            calibrate(lambda z, events=events: events, 1.0, 1e-5)
    with pytest.raises(PrivacyError, match="something released"):
        calibrate(lambda z: [poisson(z, 0.01, 0)], 1.0, 1e-5)
    for target in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(PrivacyError, match="epsilon must be"):
            calibrate(lambda z: [poisson(z, 0.01, 10)], target, 1e-5)
