"""Whole audits of mechanisms whose leak is known: how often a bound is wrong, and what follows.

A lower bound may exceed the truth in alpha of all audits. Games are played with attacks that leave
nothing on the table, so that a bound that cheats is caught.
"""

import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from fedsim.core.errors import PrivacyError
from privacy.accounting.gaussian import epsilon_of, mu_of
from privacy.auditing import (
    Audit,
    Claim,
    Counts,
    Guesses,
    LowerBound,
    fixed_sizes,
    poisson_sizes,
    wiring,
)
from privacy.auditing.bounds import clopper_pearson, cosine, one_run
from privacy.auditing.bounds.lower_bound import GAUSSIAN
from privacy.auditing.noise import step_test
from privacy.matrix_factorization import (
    MinSeparation,
    banded_toeplitz,
    blt,
    nu_ftrl,
    toeplitz,
    tree,
)

ALPHA = 0.05


def most(runs: int) -> int:
    """How often something of probability alpha happens in so many runs, but once in 1000."""
    return int(binom.isf(1e-3, runs, ALPHA))


# --- how often a bound is wrong ------------------------------------------------------------------


def laplace(stream, runs, n, epsilon=1.0):
    """Scores of n canaries in and n out, of a mechanism that leaks exactly epsilon."""
    inside = stream.laplace(1.0, 1 / epsilon, (runs, n))
    return inside, stream.laplace(0.0, 1 / epsilon, (runs, n))


def naive(inside, outside, table) -> float:
    """The best threshold on the scores that are counted: what nobody is offered."""
    n = len(inside)
    limits = np.concatenate([inside, outside])
    missed = np.searchsorted(np.sort(inside), limits, "right")
    accused = n - np.searchsorted(np.sort(outside), limits, "right")
    return float(clopper_pearson.epsilon_of_rates(table[missed], table[accused], 0.0).max())


def test_the_best_threshold_on_the_counted_scores_is_wrong_too_often():
    runs, n = 1500, 1000
    table = clopper_pearson.rate_upper(np.arange(n + 1), n, ALPHA / 2)
    stream = np.random.default_rng(11)
    above = sum(naive(a, b, table) > 1.0 for a, b in zip(*laplace(stream, runs, n), strict=True))
    assert above > most(runs)


@pytest.mark.parametrize("way", ["fixed", "split", "bonferroni"])
def test_it_exceeds_the_truth_in_at_most_alpha_of_all_audits(way):
    runs, n = 400, 1000
    bound = {
        "fixed": lambda a, b: clopper_pearson.lower(
            clopper_pearson.at_threshold(a, b, 1.0), delta=0.0
        ),
        "split": lambda a, b: clopper_pearson.split_lower(a, b, delta=0.0),
        "bonferroni": lambda a, b: clopper_pearson.bonferroni_lower(
            a, b, [0.0, 1.0, 2.0], delta=0.0
        ),
    }[way]
    pairs = zip(*laplace(np.random.default_rng(12), runs, n), strict=True)
    found = [bound(a, b).epsilon for a, b in pairs]
    assert sum(epsilon > 1.0 for epsilon in found) <= most(runs)
    assert np.median(found) > 0.4  # and it says something


def test_where_the_mechanism_is_gaussian_it_exceeds_the_truth_in_at_most_alpha_of_all_audits():
    runs, n, mu = 400, 500, 1.5
    stream = np.random.default_rng(13)
    truth, found = epsilon_of(1e-5, mu), []
    for _ in range(runs):
        game = clopper_pearson.at_threshold(stream.normal(mu, 1, n), stream.normal(0, 1, n), mu / 2)
        found.append(clopper_pearson.gaussian_lower(game, delta=1e-5).epsilon)
    assert sum(epsilon > truth for epsilon in found) <= most(runs)
    assert np.median(found) > 0.7 * truth


@pytest.mark.parametrize(("m", "r"), [(50, 50), (400, 100)])
def test_one_run_exceeds_the_truth_in_at_most_alpha_of_all_audits(m, r):
    """Exactly: each coin is told by randomised response, so that v is binomial."""
    truth = 1.0
    v = np.arange(r + 1)
    weights = binom.pmf(v, r, 1 / (1 + math.exp(-truth)))
    wrong = [
        one_run.lower(Guesses(canaries=m, guessed=r, correct=int(k)), delta=0.0).epsilon > truth
        for k in v
    ]
    assert 0.01 < weights @ np.array(wrong) <= ALPHA


def test_one_run_of_gaussians_exceeds_the_truth_in_at_most_alpha_of_all_audits():
    runs, m, mu, guesses = 400, 300, 1.0, 30
    stream, truth, found = np.random.default_rng(14), epsilon_of(1e-5, mu), []
    bounds: dict[int, tuple[float, float]] = {}
    for _ in range(runs):
        included = stream.random(m) < 0.5
        scores = mu * included + stream.standard_normal(m)
        answer = one_run.compared(one_run.guess(scores, guesses, guesses), included)
        if answer.correct not in bounds:
            pair = one_run.lower(answer, delta=1e-5), one_run.gaussian_lower(answer, delta=1e-5)
            bounds[answer.correct] = (pair[0].epsilon, pair[1].epsilon)
        found.append(bounds[answer.correct])
    plain, gaussian = np.array(found).T
    assert (plain > truth).sum() <= most(runs)
    assert (gaussian > truth).sum() <= most(runs)
    assert (gaussian >= plain).all()  # it takes more for granted
    assert np.median(gaussian) > 0.3 * truth


def test_where_canaries_do_not_influence_each_other_it_exceeds_the_truth_in_at_most_alpha():
    runs, k, dims, mu = 400, 100, 4000, 2.0
    stream, truth = np.random.default_rng(15), epsilon_of(1e-5, mu)
    found = [
        cosine.lower(stream.normal(mu, 1, k) / dims**0.5, dims, 2.0 / dims**0.5, delta=1e-5).epsilon
        for _ in range(runs)
    ]
    assert sum(epsilon > truth for epsilon in found) <= most(runs)
    assert np.median(found) > 0.2 * truth


# --- the wiring of noise -------------------------------------------------------------------------


def observations(stream, count, z, shift=1.0):
    return stream.normal(shift, z, count // 2), stream.normal(0, z, count - count // 2)


def test_five_thousand_steps_at_multiplier_1():
    found = wiring(*observations(np.random.default_rng(16), 5000, 1.0), noise_multiplier=1.0)
    assert 0.94 <= found.mu <= 1.06
    assert found.standard_error == pytest.approx((0.0008 + found.mu**2 / 10_000) ** 0.5)
    assert found.standard_error == pytest.approx(0.0300, abs=2e-4)  # 0.0283 were the noise known
    low, high = found.interval
    assert low < 1 < high
    assert found.passed
    assert not found.leaks
    assert "PASS" in str(found)


@pytest.mark.parametrize(("count", "mu"), [(12, 1.0), (200, 0.1), (200, 3.0)])
def test_the_interval_misses_the_truth_in_alpha_of_all_audits(count, mu):
    stream, runs = np.random.default_rng(17), 1500
    missed = [
        not wiring(*observations(stream, count, 1 / mu), noise_multiplier=1 / mu).passed
        for _ in range(runs)
    ]
    assert binom.ppf(1e-3, runs, ALPHA) <= sum(missed) <= most(runs)


@pytest.mark.parametrize(("factor", "leaks"), [(2 / 3, True), (3 / 2, False)])
def test_two_thirds_and_three_halves_of_the_noise_fail(factor, leaks):
    found = wiring(*observations(np.random.default_rng(18), 2000, factor), noise_multiplier=1.0)
    assert not found.passed
    assert found.leaks is leaks
    assert found.interval[0] < factor < found.interval[1]


def test_a_canary_that_is_not_seen_has_an_infinite_multiplier():
    found = wiring([0.0, 1.0, -1.0], [0.5, 1.0, 0.0], noise_multiplier=1.0)
    assert found.noise_multiplier == found.interval[1] == math.inf


FAMILIES = {
    "nu_ftrl": nu_ftrl(0.1, rounds=24),
    "banded": banded_toeplitz((1.0, 0.5, 0.3), rounds=24),
    "blt": blt((0.9, 0.5), (0.25, 0.2), rounds=24),
    "tree": tree(rounds=24),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_correlated_noise_shows_its_sensitivity_along_the_direction_in_time(name):
    """The releases are looked at as they come; without C a canary would show less, or more."""
    family, times, z = FAMILIES[name], (0, 8, 16), 2.0
    shift = step_test.shift(family.strategy, times)
    c = family.strategy
    inverse = np.linalg.inv(toeplitz.to_matrix(c) if c.ndim == 1 else c)
    stream, trials = np.random.default_rng(19), 3000
    noise = stream.normal(0, z, (2, trials, 24)) @ inverse.T
    seen = noise[0] + np.isin(np.arange(24), times)
    found = wiring(
        step_test.in_time(c, seen, times),
        step_test.in_time(c, noise[1], times),
        noise_multiplier=z / shift.value,
        alpha=1e-3,
    )
    assert found.passed
    if shift.exact and c.ndim == 1:
        worst = family.sensitivity(MinSeparation(separation=8, most=3)).value
        assert shift.value == pytest.approx(worst)
    one_step = wiring(seen[:, 0], noise[1][:, 0], noise_multiplier=z / shift.value, alpha=1e-3)
    assert not one_step.passed


# --- samplers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "q", "t"), [(10, 0.3, 6), (1000, 0.01, 60), (500, 0.02, 400)])
def test_binomial_sizes_fail_with_probability_level_or_little_more(n, q, t):
    stream, runs = np.random.default_rng(20), 250
    found = [
        poisson_sizes(stream.binomial(n, q, t).tolist(), population=n, sampling_prob=q, level=0.05)
        for _ in range(runs)
    ]
    assert sum(not check.passed for check in found) <= binom.isf(1e-3, runs, 0.065)


def test_sizes_that_are_all_alike_fail_unless_they_have_to_be():
    for rounds in (10, 300):
        found = poisson_sizes([10] * rounds, population=100, sampling_prob=0.1)
        assert "too much alike" in found.reason
    assert poisson_sizes([10] * 3, population=100, sampling_prob=0.1).passed  # may well happen
    assert poisson_sizes([100] * 300, population=100, sampling_prob=1.0).passed
    assert not poisson_sizes([100, 99], population=100, sampling_prob=1.0).passed
    assert poisson_sizes([0] * 5, population=100, sampling_prob=0.0).passed


@pytest.mark.parametrize("rounds", [40, 500])
def test_sizes_of_another_law_fail(rounds):
    stream, claim = np.random.default_rng(21), {"population": 1000, "sampling_prob": 0.05}
    more = stream.binomial(1000, 0.06, rounds).tolist()
    assert "on average instead of 50" in poisson_sizes(more, **claim).reason
    wild = stream.binomial(1000, np.tile([0.02, 0.08], rounds // 2)).tolist()
    assert "vary too much" in poisson_sizes(wild, **claim).reason
    right = stream.binomial(1000, 0.05, rounds)
    assert poisson_sizes(right.tolist(), **claim).passed
    cut = np.minimum(right, 45)
    assert not poisson_sizes(cut.tolist(), **claim).passed
    assert poisson_sizes(cut.tolist(), **claim, most=45).passed
    assert "at most 45" in poisson_sizes(right.tolist(), **claim, most=45).reason


def test_one_cohort_of_another_size_fails():
    assert fixed_sizes([8] * 5, cohort=8).passed
    found = fixed_sizes([8, 8, 7], cohort=8)
    assert not found.passed
    assert "a cohort of 7" in str(found)


# --- the verdict ---------------------------------------------------------------------------------

CLAIM = Claim(epsilon=1.83, delta=1e-5, method="pld")
ODD = fixed_sizes([8, 7], cohort=8)


def bound(epsilon, **more) -> LowerBound:
    return LowerBound(**{"epsilon": epsilon, "delta": 1e-5, "alpha": 0.05, "method": "m"} | more)


def leaking(factor):
    return wiring(*observations(np.random.default_rng(22), 2000, factor), noise_multiplier=1.0)


VERDICTS = {
    "nothing found": (Audit(claim=CLAIM), 0),
    "a bound below": (Audit(claim=CLAIM, bounds=(bound(1.0),), canaries=100), 0),
    "a bound above": (Audit(claim=CLAIM, bounds=(bound(1.0), bound(2.0))), 3),
    "a bound that assumes": (Audit(claim=CLAIM, bounds=(bound(2.0, hypothesis="if so"),)), 0),
    "a Gaussian bound": (Audit(claim=CLAIM, bounds=(bound(2.0, hypothesis=GAUSSIAN),)), 0),
    "a Gaussian bound of a Gaussian": (
        Audit(
            claim=Claim(epsilon=1.83, delta=1e-5, method="closed", gaussian=True),
            bounds=(bound(2.0, hypothesis=GAUSSIAN),),
        ),
        3,
    ),
    "less noise": (Audit(claim=CLAIM, wiring=(leaking(2 / 3),)), 3),
    "more noise": (Audit(claim=CLAIM, wiring=(leaking(3 / 2),)), 0),
    "another sampler": (Audit(claim=CLAIM, sampler=ODD), 4),
    "no guarantee": (Audit(claim=Claim(epsilon=None, delta=1e-5, method="none")), 4),
    "no noise": (Audit(claim=Claim(epsilon=math.inf, delta=1e-5, method="none")), 4),
    "few canaries": (Audit(claim=CLAIM, canaries=9), 5),
    "few canaries, another sampler": (Audit(claim=CLAIM, canaries=9, sampler=ODD), 4),
    "another sampler, a bound above": (Audit(claim=CLAIM, bounds=(bound(2.0),), sampler=ODD), 3),
    "any bound refutes an infinite claim never": (
        Audit(claim=Claim(epsilon=math.inf, delta=1e-5, method="none"), bounds=(bound(50.0),)),
        4,
    ),
}


@pytest.mark.parametrize("what", VERDICTS)
def test_the_exit_code(what):
    audit, code = VERDICTS[what]
    assert audit.verdict.code == code
    assert audit.verdict.reason


def test_a_violation_that_is_proved_outranks_all_else():
    assert VERDICTS["another sampler, a bound above"][0].verdict.name == "VIOLATED"


def test_a_bound_that_takes_something_for_granted_proves_nothing_unless_that_is_known():
    audit, _ = VERDICTS["a Gaussian bound"]
    assert any("if what it takes for granted is true" in words for words in audit.all_warnings)
    assert not VERDICTS["a Gaussian bound of a Gaussian"][0].all_warnings


def test_a_verdict_says_how_often_it_is_wrong():
    audit = Audit(claim=CLAIM, bounds=(bound(2.0), bound(1.0)), wiring=(leaking(1.0),))
    assert audit.verdict.alpha == pytest.approx(0.05 + 0.05 + 0.025)


def test_findings_that_prove_nothing_are_warnings():
    estimate = cosine.estimate(np.linspace(0.03, 0.05, 20), 4000, delta=1e-5)
    audit = Audit(
        claim=CLAIM,
        wiring=(leaking(3 / 2),),
        estimate=estimate,
        bounds=(bound(1.0, ceiling=1.5),),
        warnings=("as given",),
    )
    given, above, ceiling, noise = audit.all_warnings
    assert given == "as given"
    assert "the estimate" in above
    assert "not even a perfect attack" in ceiling
    assert "more noise than claimed" in noise


def test_all_of_it_is_json():
    audit = Audit(
        claim=CLAIM,
        sampler=ODD,
        bounds=(bound(1.0),),
        canaries=100,
        details={"seed": 1},
        wiring=(wiring([0.0, 1.0, -1.0], [0.5, 1.0, 0.0], noise_multiplier=1.0),),
        assumptions=("the population is public",),
    )
    found = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert found["verdict"]["code"] == 4
    assert found["verdict"]["name"] == "UNSUPPORTED"
    assert found["sampler"]["passed"] is False
    assert found["wiring"][0]["noise_multiplier"] is None  # infinite
    assert found["details"] == {"seed": 1}
    kinds = [line.split()[0] for line in audit.lines()]
    assert kinds == ["claimed", "sampler", "wiring", "audit", "verdict", "assumes"]


def test_a_caught_bug_from_the_start():
    """A mechanism with half its noise: the wiring and the counts both say so."""
    stream, z = np.random.default_rng(23), 2.0
    inside, outside = observations(stream, 20_000, z / 2)
    claim = Claim(epsilon=epsilon_of(1e-5, 1 / z), delta=1e-5, method="closed", gaussian=True)
    game = clopper_pearson.gaussian_lower(
        clopper_pearson.at_threshold(inside, outside, 0.5), delta=1e-5
    )
    for audit in (
        Audit(claim=claim, bounds=(game,)),
        Audit(claim=claim, wiring=(wiring(inside, outside, noise_multiplier=z),)),
    ):
        assert audit.verdict.code == 3
    assert game.mu > mu_of(claim.epsilon, 1e-5)


BAD = {
    "one observation": lambda: wiring([1.0], [1.0, 2.0], noise_multiplier=1.0),
    "no noise": lambda: wiring([1.0, 1.0], [0.0, 0.0], noise_multiplier=1.0),
    "an infinite observation": lambda: wiring([1.0, math.inf], [0.0, 1.0], noise_multiplier=1.0),
    "a multiplier of 0": lambda: wiring([1.0, 2.0], [0.0, 1.0], noise_multiplier=0.0),
    "alpha of 1": lambda: wiring([1.0, 2.0], [0.0, 1.0], noise_multiplier=1.0, alpha=1.0),
    "releases of other rounds": lambda: step_test.in_time(np.ones(3), np.ones((5, 4)), (0,)),
    "a time after the last": lambda: step_test.in_time(np.ones(3), np.ones((5, 3)), (3,)),
    "no time": lambda: step_test.in_time(np.ones(3), np.ones((5, 3)), ()),
    "no round": lambda: fixed_sizes([], cohort=3),
    "more than everybody": lambda: poisson_sizes([11], population=10, sampling_prob=0.5),
    "a size that is none": lambda: poisson_sizes([1.5], population=10, sampling_prob=0.5),
    "a chance above 1": lambda: poisson_sizes([1], population=10, sampling_prob=1.5),
    "a bound at a smaller delta": lambda: Audit(claim=CLAIM, bounds=(bound(1.0, delta=1e-6),)),
    "a claim at delta 0": lambda: Audit(claim=Claim(epsilon=1.0, delta=0.0, method="pld")),
}


@pytest.mark.parametrize("what", BAD)
def test_it_is_refused_in_one_line(what):
    with pytest.raises(PrivacyError, match=r"^\w+: [\w ]+ must be .+; got .+\. \w.+\.$") as caught:
        BAD[what]()
    assert "\n" not in str(caught.value)


def test_counts_of_a_game_add_up():
    found = Counts(true_positives=3, false_negatives=1, false_positives=2, true_negatives=5)
    assert (found.positives, found.negatives) == (4, 7)
