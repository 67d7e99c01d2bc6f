"""Audits give the numbers that were computed independently, to every digit that was given.

Reference values: computed beforehand in 50 digits or by quadrature, and by the papers' own code.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, norm

from fedsim.core.errors import PrivacyError
from privacy.accounting.gaussian import epsilon_of
from privacy.auditing import Counts, Guesses
from privacy.auditing.bounds import bayes, binomial, clopper_pearson, cosine, one_run
from privacy.auditing.membership import lira


def counted(tp, fn, fp, tn) -> Counts:
    return Counts(true_positives=tp, false_negatives=fn, false_positives=fp, true_negatives=tn)


def guessed(m, r, v) -> Guesses:
    return Guesses(canaries=m, guessed=r, correct=v)


# --- counts --------------------------------------------------------------------------------------

# (TP, FN, FP, TN), delta: FNR and FPR at most, eps, Gaussian mu, Gaussian eps at 1e-5, posterior
COUNTS = [
    (
        (900, 100, 100, 900),
        1e-5,
        (0.1202879365, 0.1202879365),
        1.98969495,
        2.34709723,
        12.19756275,
        (2.08512537, 2.24241546, 2.41770527),
    ),
    (
        (500, 0, 0, 500),
        1e-5,
        (0.0073506101, 0.0073506101),
        4.90558414,
        4.87931365,
        31.99740755,
        (6.21638368, 8.86461305, 15.20700252),
    ),
    (
        (60, 40, 10, 90),
        1e-5,
        (0.5027908496, 0.1762225977),
        1.03724270,
        0.92286119,
        3.98969365,
        (1.22873376, 1.77495453, 2.44719309),
    ),
    (
        (990, 10, 20, 980),
        0.0,
        (0.0183132431, 0.0307200327),
        3.96892903,
        3.96021847,
        24.05559265,
        (4.04446549, 4.56918105, 5.24758954),
    ),
    (
        (400, 600, 5, 995),
        1e-5,
        (0.6305310125, 0.0116294706),
        3.45849730,
        1.93589428,
        9.60471436,
        (3.59579927, 4.34855815, 5.34633845),
    ),
    (
        (500, 500, 500, 500),
        1e-5,
        (0.5314508270, 0.5314508270),
        0.0,
        0.0,
        0.0,
        (0.00140569, 0.03067451, 0.10204262),
    ),
]


@pytest.mark.parametrize(("row", "delta", "rates", "epsilon", "mu", "gaussian", "belief"), COUNTS)
def test_counts_to_epsilon(row, delta, rates, epsilon, mu, gaussian, belief):
    found = counted(*row)
    assert clopper_pearson.rates_upper(found) == pytest.approx(rates, abs=6e-11)
    assert clopper_pearson.lower(found, delta=delta).epsilon == pytest.approx(epsilon, abs=6e-9)
    bound = clopper_pearson.gaussian_lower(found, delta=1e-5)
    assert bound.mu == pytest.approx(mu, abs=6e-9)
    assert bound.epsilon == pytest.approx(gaussian, abs=6e-9)
    assert "Gaussian" in bound.hypothesis
    assert not clopper_pearson.lower(found, delta=delta).hypothesis
    low, high = bayes.credible_interval(found, delta=delta)
    middle = bayes.quantile(found, 0.5, delta=delta)
    assert (low, middle, high) == pytest.approx(belief, abs=6e-9)


def test_both_error_rates_bound_epsilon_and_the_better_one_counts():
    missed, accused = clopper_pearson.rates_upper(counted(990, 10, 20, 980))
    assert math.log((1 - missed) / accused) == pytest.approx(3.46435730, abs=6e-9)
    assert math.log((1 - accused) / missed) == pytest.approx(3.96892903, abs=6e-9)


@given(k=st.integers(0, 200), n=st.integers(1, 200), alpha=st.floats(0.001, 0.5))
def test_a_clopper_pearson_bound_is_where_so_few_errors_have_probability_alpha(k, n, alpha):
    k = min(k, n)
    bound = float(clopper_pearson.rate_upper(k, n, alpha))
    assert bound == 1 if k == n else binom.cdf(k, n, bound) == pytest.approx(alpha, rel=1e-6)


def test_at_a_threshold_a_score_equal_to_it_is_out():
    assert clopper_pearson.at_threshold([1.0, 2.0, 3.0], [0.0, 2.0], 2.0) == counted(1, 2, 0, 2)


def test_the_split_counts_only_what_did_not_choose_the_threshold():
    """Scores that chose it are told apart perfectly; the others are not at all."""
    inside, outside = np.empty(400), np.empty(400)
    inside[::2], outside[::2] = 1 + np.arange(200) / 200, np.arange(200) / 400
    inside[1::2] = outside[1::2] = np.arange(200) / 100
    assert clopper_pearson.split_lower(inside, outside, delta=0.0).epsilon == 0
    inside[1::2], outside[1::2] = inside[::2], outside[::2]
    found = clopper_pearson.split_lower(inside, outside, delta=0.0)
    assert found.epsilon == clopper_pearson.lower(counted(200, 0, 0, 200), delta=0.0).epsilon


def test_bonferroni_is_the_best_bound_at_a_share_of_alpha():
    stream = np.random.default_rng(1)
    inside, outside = stream.normal(2, 1, 500), stream.normal(0, 1, 500)
    limits = [0.0, 1.0, 2.0]
    each = [
        clopper_pearson.lower(
            clopper_pearson.at_threshold(inside, outside, limit), delta=1e-5, alpha=0.05 / 3
        )
        for limit in limits
    ]
    found = clopper_pearson.bonferroni_lower(inside, outside, limits, delta=1e-5)
    assert found.epsilon == max(bound.epsilon for bound in each) > 0
    assert found.alpha == 0.05


def test_a_rate_fixed_in_advance_is_kept_by_the_half_that_sets_the_threshold():
    outside = np.repeat(np.arange(1000) / 1000, 2)  # every other one sets it
    found = clopper_pearson.at_rate([0.5, 0.995, 2.0], outside, 0.01)
    assert (found.false_positives, found.negatives) == (10, 1000)
    assert found.true_positives == 2
    assert clopper_pearson.at_rate([0.5, 2.0], outside, 0.0).true_positives == 1


def test_the_ceiling_of_counts_is_what_a_perfect_attack_shows():
    found = clopper_pearson.lower(counted(60, 40, 10, 90), delta=1e-5)
    perfect = clopper_pearson.lower(counted(100, 0, 0, 100), delta=1e-5)
    assert found.ceiling == perfect.epsilon > found.epsilon
    assert str(found) == "counts: eps >= 1.04 (95%)"


# --- belief --------------------------------------------------------------------------------------


def test_the_posterior_of_a_published_case_is_exact():
    """Where the authors' program prints [0.145, 6.399], to its tolerance."""
    found = counted(487, 0, 512, 1)
    low, high = bayes.credible_interval(found, delta=1e-5, credibility=0.9)
    assert (low, high) == pytest.approx((0.14389496, 6.41559567), abs=6e-9)
    assert bayes.quantile(found, 0.5, delta=1e-5) == pytest.approx(1.71998766, abs=6e-9)


def test_the_posterior_of_a_small_game():
    found = counted(60, 40, 10, 90)
    assert bayes.posterior_cdf(found, 1.0, 1e-5) == pytest.approx(0.0018693597, abs=6e-11)
    assert bayes.posterior_cdf(found, 4.0, 1e-5) == pytest.approx(0.9999999306, abs=6e-11)


@pytest.mark.parametrize("row", [(60, 40, 10, 90), (3, 0, 1, 5), (20, 30, 4000, 90_000)])
@pytest.mark.parametrize("delta", [0.0, 0.1])
def test_the_posterior_is_that_of_drawn_error_rates(row, delta):
    """An independent way: pairs of rates are drawn, and each has its own epsilon."""
    tp, fn, fp, tn = row
    stream = np.random.default_rng(2)
    fnr, fpr = stream.beta(fn + 0.5, tp + 0.5, 200_000), stream.beta(fp + 0.5, tn + 0.5, 200_000)
    leaked = np.maximum(  # also of the attack that says the opposite
        clopper_pearson.epsilon_of_rates(fnr, fpr, delta),
        clopper_pearson.epsilon_of_rates(1 - fnr, 1 - fpr, delta),
    )
    for epsilon in (0.0, 0.2, 1.0, 2.0, 5.0):
        share = float((leaked <= epsilon).mean())
        found = bayes.posterior_cdf(counted(*row), epsilon, delta)
        assert found == pytest.approx(share, abs=5 * (0.25 / 200_000) ** 0.5)


@settings(max_examples=12, deadline=None)
@given(
    row=st.tuples(*[st.integers(0, 300)] * 4).filter(lambda r: r[0] + r[1] and r[2] + r[3]),
    delta=st.sampled_from([0.0, 1e-5, 0.2]),
)
def test_it_rises_with_epsilon(row, delta):
    found = [bayes.posterior_cdf(counted(*row), e, delta) for e in (0.0, 0.1, 1.0, 3.0, 9.0, 200.0)]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(found))
    assert found[-1] == pytest.approx(1, abs=1e-9)


def test_an_end_below_which_nothing_is_left_to_believe_is_0():
    found = counted(50, 50, 50, 50)
    at_zero = bayes.posterior_cdf(found, 0.0, 0.1)
    assert 0.025 < at_zero < 0.975
    low, high = bayes.credible_interval(found, delta=0.1)
    assert low == 0 < high


# --- one run -------------------------------------------------------------------------------------

# m, r, v, delta: eps at alpha 0.05; p-values at eps 1 and 2
ONE_RUN = [
    (1000, 100, 95, 0.0, 2.1724340432, 1.4604700748e-8, 0.0161018187532),
    (1000, 100, 95, 1e-5, 2.1651757997, 6.63914468353e-4, 0.0178246346431),
    (1000, 100, 100, 1e-5, 3.4653763478, 5.63308984096e-4, 1.15536632124e-3),
    (1000, 1000, 600, 1e-5, 0.2972269537, 1.0, 1.0),
    (5000, 500, 450, 1e-5, 1.9414204321, 9.46303139259e-4, 0.107131556006),
    (100, 10, 10, 0.0, 1.0518732332, 0.0436035427941, 0.281033862321),
]


@pytest.mark.parametrize(("m", "r", "v", "delta", "epsilon", "at_one", "at_two"), ONE_RUN)
def test_one_run(m, r, v, delta, epsilon, at_one, at_two):
    found = guessed(m, r, v)
    assert one_run.lower(found, delta=delta).epsilon == pytest.approx(epsilon, abs=6e-11)
    assert one_run.p_value(found, 1.0, delta) == pytest.approx(at_one, rel=1e-11)
    assert one_run.p_value(found, 2.0, delta) == pytest.approx(at_two, rel=1e-11)


GAUSSIAN_RUN = [
    ((1000, 100, 95), 3.32330049),
    ((1000, 1000, 600), 0.58354047),
    ((5000, 500, 450), 2.77606625),
]


@pytest.mark.parametrize(("row", "epsilon"), GAUSSIAN_RUN)
def test_one_run_under_the_gaussian_hypothesis(row, epsilon):
    found = one_run.gaussian_lower(guessed(*row), delta=1e-5)
    assert found.epsilon == pytest.approx(epsilon, abs=6e-9)
    assert "Gaussian" in found.hypothesis


@pytest.mark.parametrize(
    ("r", "most"), [(10, 1.05187323), (100, 3.49296543), (1000, 5.80906834), (10_000, 8.11300188)]
)
def test_not_even_a_perfect_attack_shows_more_than_the_ceiling(r, most):
    share = 0.05 ** (1 / r)
    assert math.log(share / (1 - share)) == pytest.approx(most, abs=6e-9)
    found = one_run.lower(guessed(r, r, r), delta=0.0)
    assert found.epsilon == pytest.approx(most, abs=6e-9)
    assert one_run.lower(guessed(r, r, r // 2), delta=0.0).ceiling == found.epsilon


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 2000),
    r=st.integers(1, 200),
    v=st.integers(0, 200),
    delta=st.floats(1e-8, 0.1),
)
def test_it_never_falls_as_epsilon_or_delta_rise(m, r, v, delta):
    r = min(r, m)
    found = guessed(m, r, min(v, r))
    values = [one_run.p_value(found, e, delta) for e in np.linspace(0, 8, 40)]
    assert (np.diff(values) >= -1e-12).all()
    assert one_run.p_value(found, 1.0, delta / 2) <= one_run.p_value(found, 1.0, delta) + 1e-12


def test_the_binomial_law_is_scipys():
    for trials, probability in ((1, 0.3), (50, 0.0), (50, 1.0), (10_000, 0.731)):
        k = np.arange(trials + 1.0)
        assert binomial.pmf(k, trials, probability) == pytest.approx(
            binom.pmf(k, trials, probability), rel=1e-9, abs=1e-300
        )


def test_guesses_are_the_most_and_the_least():
    scores = [0.1, 0.9, 0.5, 0.5, -3.0]
    assert one_run.guess(scores, 2, 1).tolist() == [0, 1, 0, 1, -1]  # of equal ones the later
    assert one_run.guess(scores, 0, 5).tolist() == [-1] * 5
    assert not one_run.guess(scores, 0, 0).any()
    included = [True, True, False, False, False]
    found = one_run.compared(one_run.guess(scores, 2, 1), included)
    assert found == guessed(5, 3, 2)


# --- cosines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "mean", "std", "epsilon"),
    [(1e4, 0.02, 0.01, 9.997256), (1e4, 0.05, 0.01, 33.103732), (1e6, 0.003, 0.0011, 19.702994)],
)
def test_the_epsilon_between_two_gaussians(dims, mean, std, epsilon):
    found = cosine.gaussian_epsilon(dims**-0.5, mean, std, 1e-5)
    assert found == pytest.approx(epsilon, abs=6e-7)


def test_between_gaussians_of_one_width_it_is_the_closed_form_of_mu_sqrt_d():
    for dims, mean in ((1e4, 0.02), (1e6, 0.003)):
        exact = epsilon_of(1e-5, mean * dims**0.5)
        assert cosine.gaussian_epsilon(dims**-0.5, mean, dims**-0.5, 1e-5) == exact
        almost = cosine.gaussian_epsilon(dims**-0.5, mean, dims**-0.5 * (1 + 1e-7), 1e-5)
        assert almost == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("second", [(1.5, 0.7), (1.5, 1.4), (-0.3, 2.0), (0.0, 0.5), (0.0, 3.0)])
def test_delta_between_two_gaussians_is_the_integral(second):
    """An independent way: quadrature of max(0, p - e^epsilon q), in both orders."""
    for p, q in (((0.0, 1.0), second), (second, (0.0, 1.0))):
        for epsilon in (0.0, 0.5, 2.0):
            part = quad(
                lambda x, p=p, q=q, e=epsilon: max(
                    0.0, norm.pdf(x, *p) - math.exp(e) * norm.pdf(x, *q)
                ),
                -20,
                20,
                limit=1000,
                points=list(range(-6, 7)),
            )[0]
            assert cosine._delta(p, q, epsilon) == pytest.approx(part, abs=1e-7)


def test_the_null_is_that_of_uniform_directions():
    stream = np.random.default_rng(4)
    for dims in (3, 20):
        found = cosine.cosines(cosine.directions(40_000, dims, stream), np.arange(dims) + 1.0)
        for threshold in (-0.3, 0.1, 0.4):
            share = float((found > threshold).mean())
            assert cosine.null_above(threshold, dims) == pytest.approx(share, abs=0.0125)
    assert cosine.null_above(0.02, 10_000) == pytest.approx(norm.sf(2), rel=1e-3)
    assert cosine.null_above(0.1, 3) == pytest.approx(0.45)  # uniform in three dimensions


def test_an_estimate_of_a_model_that_canaries_moved():
    stream = np.random.default_rng(5)
    dims, k, std = 4000, 300, 0.5
    each = cosine.directions(k, dims, stream)
    moved = each.sum(axis=0) + std * stream.standard_normal(dims) * dims**0.5
    found = cosine.estimate(cosine.cosines(each, moved), dims, delta=1e-5)
    length = math.sqrt(k + std**2 * dims * dims)  # of what moved: each canary's shift is 1 / that
    assert found.mean == pytest.approx(1 / length, abs=5 / (dims * k) ** 0.5)
    assert found.canaries == k


def test_canaries_that_the_model_moved_away_from_give_0():
    observed = np.linspace(-0.05, 0.01, 50)
    assert cosine.estimate(observed, 4000, delta=1e-5).epsilon == 0


def test_a_canary_that_was_never_asked_is_counted_apart():
    observed, asked = np.linspace(0.01, 0.03, 40), np.arange(40) < 25
    found = cosine.estimate(observed, 4000, delta=1e-5, asked=asked)
    assert (found.canaries, found.never_asked) == (25, 15)
    assert replace(found, never_asked=0) == cosine.estimate(observed[:25], 4000, delta=1e-5)


def test_the_bound_counts_misses_against_the_exact_null():
    observed = np.r_[np.full(15, 0.0), np.full(85, 0.06)]
    found = cosine.lower(observed, 4000, 0.03, delta=1e-5)
    missed = float(clopper_pearson.rate_upper(15, 100, 0.05))
    assert found.epsilon == pytest.approx(
        math.log((1 - missed - 1e-5) / cosine.null_above(0.03, 4000)), rel=1e-12
    )
    assert found.hypothesis


# --- membership inference ------------------------------------------------------------------------


def test_confidence_is_the_log_odds_of_the_own_class():
    shares = np.log([[0.9, 0.06, 0.04], [0.2, 0.3, 0.5]])
    found = lira.confidence(shares, [0, 2])
    assert found == pytest.approx([2.1972245773, 0.0], abs=6e-11)
    assert lira.confidence(shares + 7, [0, 2]) == pytest.approx(found)  # logits will do
    assert lira.confidence([[900.0, 0.0]], [0])[0] == 900  # where p is 1 to any precision


def test_the_score_is_the_log_ratio_of_two_densities():
    """Eight models, whose means and variances are (3, 1) and (1, 1.5)."""
    away = 3**0.5 / 2  # four points with a standard deviation of 1
    column = np.array([3 + away, 3 - away] * 2 + [1 + 1.5 * away, 1 - 1.5 * away] * 2)
    member = np.arange(8) < 4
    phi = math.log(9)
    found = lira.scores([phi], column[:, None], member[:, None])
    assert found == pytest.approx([0.4017624048], abs=6e-11)
    alone = lira.offline_scores([phi], column[:, None], member[:, None])
    assert alone == pytest.approx([norm.cdf((phi - 1) / 1.5)])


def test_with_fewer_than_64_models_all_examples_share_their_two_variances():
    stream = np.random.default_rng(6)
    for models, shared in ((20, True), (64, False)):
        table = stream.normal(0, [1.0, 3.0], (models, 2))
        member = np.tile(np.arange(models)[:, None] % 2 == 0, 2)
        _, std = lira._fitted(table, member)
        assert bool(std[0] == std[1]) is shared
    residuals = table[::2] - table[::2].mean(axis=0)
    assert std == pytest.approx(np.sqrt((residuals**2).sum(axis=0) / 31))


def test_rates_and_area_of_known_scores():
    found = lira.roc([3.0, 1.0, 0.0], [2.0, 1.0, -1.0, -2.0], rates=(0.0, 0.25, 0.5, 1.0))
    assert found.tpr == {0.0: 1 / 3, 0.25: 1 / 3, 0.5: 1.0, 1.0: 1.0}
    assert found.auc == pytest.approx((4 + 2.5 + 2) / 12)


def test_equal_scores_count_half_in_the_area():
    assert lira.roc([1.0] * 3, [1.0] * 5).auc == 0.5


def test_likelihood_ratios_find_members_of_a_leaking_model():
    """Members are looked at by a shift of 2, as by a Gaussian mechanism of mu 2."""
    stream = np.random.default_rng(7)
    n, models = 4000, 16
    hardness, member = stream.normal(0, 2, n), stream.random(n) < 0.5
    included = stream.permuted(np.tile(np.arange(models)[:, None] % 2 == 0, n), axis=0)
    shadows = hardness + 2 * included + stream.standard_normal((models, n))
    target = hardness + 2 * member + stream.standard_normal(n)
    found = lira.scores(target, shadows, included)
    table = lira.roc(found[member], found[~member])
    assert table.auc == pytest.approx(norm.cdf(2**0.5), abs=0.03)
    assert table.tpr[0.01] == pytest.approx(norm.sf(norm.isf(0.01) - 2), abs=0.12)
    alone = lira.offline_scores(target, shadows, included)
    assert lira.roc(alone[member], alone[~member]).auc == pytest.approx(table.auc, abs=0.03)
    at_one_percent = clopper_pearson.at_rate(found[member], found[~member], 0.01)
    assert 1 < clopper_pearson.lower(at_one_percent, delta=1e-5).epsilon < epsilon_of(1e-5, 2.0)


# --- what is refused -----------------------------------------------------------------------------

SCORES = np.linspace(0, 1, 12)
OK = counted(5, 5, 5, 5)
BAD = {
    "no positives": lambda: counted(0, 0, 5, 5),
    "no negatives": lambda: counted(5, 5, 0, 0),
    "a negative count": lambda: counted(-1, 5, 5, 5),
    "a count that is none": lambda: counted(1.5, 5, 5, 5),
    "delta of 1": lambda: clopper_pearson.lower(OK, delta=1.0),
    "NaN delta": lambda: clopper_pearson.lower(OK, delta=math.nan),
    "delta of 0 for a Gaussian": lambda: clopper_pearson.gaussian_lower(OK, delta=0.0),
    "alpha of 0": lambda: clopper_pearson.lower(OK, delta=0.0, alpha=0.0),
    "NaN score": lambda: clopper_pearson.at_threshold([math.nan], [0.0], 0.0),
    "no score": lambda: clopper_pearson.at_threshold([], [0.0], 0.0),
    "infinite threshold": lambda: clopper_pearson.at_threshold([1.0], [0.0], math.inf),
    "one score to split": lambda: clopper_pearson.split_lower([1.0], [0.0], delta=0.0),
    "no thresholds": lambda: clopper_pearson.bonferroni_lower([1.0], [0.0], [], delta=0.0),
    "a threshold twice": lambda: clopper_pearson.bonferroni_lower([1.0], [0.0], [1, 1], delta=0.0),
    "a rate of 1": lambda: clopper_pearson.at_rate([1.0], [0.0, 1.0], 1.0),
    "negative epsilon": lambda: bayes.posterior_cdf(OK, -1.0, 0.0),
    "NaN epsilon": lambda: bayes.posterior_cdf(OK, math.nan, 0.0),
    "all credibility": lambda: bayes.credible_interval(OK, delta=0.0, credibility=1.0),
    "more guesses than canaries": lambda: guessed(10, 11, 5),
    "more right than made": lambda: guessed(10, 5, 6),
    "no guess": lambda: guessed(10, 0, 0),
    "infinite epsilon": lambda: one_run.p_value(guessed(9, 5, 3), math.inf, 0.0),
    "too many guesses": lambda: one_run.guess(SCORES, 7, 6),
    "a NaN guess": lambda: one_run.guess([0.0, math.nan], 1, 0),
    "too few coins": lambda: one_run.compared([1, -1], [True]),
    "a model that did not move": lambda: cosine.cosines(np.ones((2, 3)), np.zeros(3)),
    "a model that diverged": lambda: cosine.cosines(np.ones((2, 3)), [0.0, math.nan, 0.0]),
    "canaries of other shapes": lambda: cosine.cosines(np.ones((2, 4)), np.ones(3)),
    "a canary of zeros": lambda: cosine.cosines(np.zeros((2, 3)), np.ones(3)),
    "nine canaries": lambda: cosine.estimate(SCORES[:9], 4000, delta=1e-5),
    "nine that were asked": lambda: cosine.estimate(SCORES, 4000, delta=1e-5, asked=SCORES > 0.2),
    "canaries all alike": lambda: cosine.estimate(np.ones(12), 4000, delta=1e-5),
    "few dimensions": lambda: cosine.estimate(SCORES, 999, delta=1e-5),
    "a cosine of 1": lambda: cosine.lower(SCORES, 4000, 1.0, delta=1e-5),
    "no width": lambda: cosine.gaussian_epsilon(0.1, 0.1, 0.0, 1e-5),
    "one class": lambda: lira.confidence([[1.0]], [0]),
    "a label that is none": lambda: lira.confidence([[1.0, 2.0]], [2]),
    "shadows of others": lambda: lira.scores([1.0], np.ones((4, 2)), np.ones((4, 2), bool)),
    "an example in all": lambda: lira.scores([1.0], SCORES[:, None], np.ones((12, 1), bool)),
    "models all alike": lambda: lira.scores([1.0], np.ones((4, 1)), [[True], [False]] * 2),
    "a NaN confidence": lambda: lira.roc([math.nan], [1.0]),
    "a rate above 1": lambda: lira.roc([1.0], [1.0], rates=(2.0,)),
}


@pytest.mark.parametrize("what", BAD)
def test_it_is_refused_in_one_line(what):
    with pytest.raises(PrivacyError, match=r"^\w+: [\w ]+ must be .+; got .+\. \w.+\.$") as caught:
        BAD[what]()
    assert "\n" not in str(caught.value)


def test_nothing_offers_the_best_threshold_on_the_scores_that_are_counted():
    offered = {
        name for name in dir(clopper_pearson) if not name.startswith("_") and "lower" in name
    }
    assert offered == {"lower", "gaussian_lower", "split_lower", "bonferroni_lower"}
