"""Power series, participation and sensitivities (arXiv:2211.06530, arXiv:2306.08153)."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from fedsim.core.errors import PrivacyError
from privacy.matrix_factorization import (
    FixedEpoch,
    MinSeparation,
    Observed,
    Single,
    banded_square_root,
    sensitivity,
    square_root,
    toeplitz,
)

# --- series ---------------------------------------------------------------------------------------


def test_the_root_and_its_inverse_are_the_binomial_series():
    assert toeplitz.square_root_series(4).tolist() == [1, 1 / 2, 3 / 8, 5 / 16]
    assert toeplitz.inverse_root_series(6).tolist() == [
        1,
        -1 / 2,
        -1 / 8,
        -1 / 16,
        -5 / 128,
        -7 / 256,
    ]


def test_the_product_of_a_series_and_its_inverse_is_1():
    one = toeplitz.pad(np.ones(1), 10_000)
    root, inverse = toeplitz.square_root_series(10_000), toeplitz.inverse_root_series(10_000)
    np.testing.assert_allclose(toeplitz.invert(inverse), root, rtol=1e-12)
    np.testing.assert_allclose(toeplitz.multiply(root, inverse), one, atol=1e-12)
    np.testing.assert_allclose(toeplitz.multiply(root, root), np.ones(10_000), rtol=1e-12)


def test_an_inverse_is_right_to_its_own_last_digits_however_small_it_gets():
    halves = toeplitz.invert(toeplitz.pad(np.array([1.0, -0.5]), 1000))
    np.testing.assert_array_equal(halves, 0.5 ** np.arange(1000))


def test_products_of_series_are_products_of_their_matrices():
    first, second = np.array([1.0, 2.0, -3.0]), np.array([2.0, 0.0, 5.0])
    whole = toeplitz.to_matrix(first) @ toeplitz.to_matrix(second)
    np.testing.assert_allclose(whole, toeplitz.to_matrix(toeplitz.multiply(first, second)))
    np.testing.assert_allclose(whole[:, 0], toeplitz.multiply(first, second))
    prefix = np.tril(np.ones((3, 3))) @ toeplitz.to_matrix(first)
    np.testing.assert_allclose(toeplitz.prefix_errors(first), (prefix**2).sum(axis=1))
    np.testing.assert_allclose(
        toeplitz.prefix_errors(toeplitz.to_matrix(first)), (prefix**2).sum(1)
    )


@given(draw.lists(draw.floats(-5, 5), min_size=1, max_size=20))
@settings(deadline=None)
def test_a_majorant_is_non_increasing_and_a_non_increasing_series_is_its_own(values):
    series = np.array(values)
    above = toeplitz.non_increasing_majorant(series)
    assert toeplitz.is_non_increasing(above)
    assert (above >= np.abs(series)).all()
    np.testing.assert_array_equal(toeplitz.non_increasing_majorant(above), above)


def test_the_norm_of_the_root_is_its_exact_sum_and_grows_like_a_logarithm():
    exact = sum(Fraction(math.comb(2 * k, k), 4**k) ** 2 for k in range(1000))
    for n, square in (
        (10, 1.791343941586),
        (100, 2.531352112636),
        (1000, float(exact)),
        (10_000, 3.998010291062),
    ):
        assert sensitivity(toeplitz.square_root_series(n), Single()).value ** 2 == pytest.approx(
            square, abs=1e-12
        )
        assert toeplitz.prefix_errors(toeplitz.inverse_root_series(n))[-1] == pytest.approx(square)
        asymptote = (math.log(n) + np.euler_gamma + math.log(16)) / math.pi
        assert square == pytest.approx(asymptote, abs=0.1 / n)


# --- sensitivity ----------------------------------------------------------------------------------


def search_all_patterns(strategy, schema):
    """The largest sum of |Gram| over every pattern that the schema admits."""
    whole = strategy if strategy.ndim == 2 else toeplitz.to_matrix(strategy)
    n, gram = len(whole), np.abs(whole.T @ whole)
    patterns = (
        [t for t in range(n) if mask >> t & 1] for mask in range(1, 1 << n) if mask.bit_count() < 13
    )
    admitted = (times for times in patterns if schema.admits(times))
    return math.sqrt(max(gram[np.ix_(times, times)].sum() for times in admitted))


@pytest.mark.parametrize(
    ("b", "k", "square"),
    [
        (1, 1, 1.850676578051),
        (3, 2, 5.266385451589),
        (3, 4, 13.383036405477),
        (4, 3, 8.407630192629),
        (6, 2, 4.577274974949),
        (1, 12, 95.626499821421),
        (5, 3, 7.275181443012),
    ],
)
def test_for_non_increasing_coefficients_it_equals_the_maximum_over_all_patterns(b, k, square):
    strategy, schema = toeplitz.square_root_series(12), MinSeparation(b, k)
    found = sensitivity(strategy, schema)
    assert found.exact
    assert found.value**2 == pytest.approx(square, abs=5e-12)
    assert found.value == pytest.approx(search_all_patterns(strategy, schema), rel=1e-14)
    bounded = sensitivity(toeplitz.to_matrix(strategy), schema)  # as a general matrix
    assert bounded.exact == (k == 1)
    assert bounded.value >= found.value * (1 - 1e-12)


@pytest.mark.parametrize(
    ("n", "b", "k", "full", "bands"),
    [
        (100, 10, 10, 8.734082438528, 4.232427130603),
        (1000, 100, 10, 9.154043000233, 5.031254428704),
        (2000, 100, 20, 17.190574670512, 7.115268248823),
        (1500, 34, 45, 36.331918633869, None),
    ],
)
def test_sensitivities_of_long_runs_have_their_reference_values(n, b, k, full, bands):
    schema = MinSeparation(b, k)
    assert square_root(rounds=n).sensitivity(schema) == (pytest.approx(full, abs=5e-12), True)
    if bands:
        banded = banded_square_root(b, rounds=n).sensitivity(schema)
        assert banded == (pytest.approx(bands, abs=5e-12), True)


RISING = [np.array([1.0, 2.0, 0.5, 0, 0, 0, 0, 0]), np.array([1, -0.5, 0.9, -0.1, 0.3, 0, 0, 0])]


@pytest.mark.parametrize("strategy", RISING)
@pytest.mark.parametrize(("b", "k"), [(1, 3), (2, 2), (2, 4), (3, 2)])
def test_for_other_coefficients_it_is_an_upper_bound_and_flagged_as_one(strategy, b, k):
    schema = MinSeparation(b, k)
    orthogonal = toeplitz.count_bands(strategy) <= b
    for form in (strategy, toeplitz.to_matrix(strategy)):
        found, true = sensitivity(form, schema), search_all_patterns(strategy, schema)
        assert found.exact == orthogonal
        assert found.value >= true * (1 - 1e-12)
        if orthogonal:
            assert found.value == pytest.approx(true)


@pytest.mark.parametrize("strategy", RISING)
def test_one_participation_is_the_largest_norm_of_a_column(strategy):
    norm = float(np.linalg.norm(toeplitz.to_matrix(strategy), axis=0).max())
    for form in (strategy, toeplitz.to_matrix(strategy)):
        for schema in (Single(), MinSeparation(1, 1), MinSeparation(8, 5)):
            assert sensitivity(form, schema) == (pytest.approx(norm), True)


@given(
    draw.lists(draw.floats(0, 3), min_size=2, max_size=8), draw.integers(1, 5), draw.integers(1, 5)
)
@settings(deadline=None)
def test_orthogonal_columns_of_any_norms_are_exact(norms, b, k):
    found = sensitivity(np.diag(norms), MinSeparation(b, k))
    assert found == (pytest.approx(search_all_patterns(np.diag(norms), MinSeparation(b, k))), True)


falling = draw.lists(draw.floats(0, 3), min_size=1, max_size=7).map(
    lambda values: np.array(sorted([*values, 1.0], reverse=True))
)


@given(falling, draw.integers(1, 7), draw.integers(1, 7))
@settings(deadline=None)
def test_it_grows_with_most_and_falls_with_separation(strategy, b, k):
    for form in (strategy, toeplitz.to_matrix(strategy)):
        value = sensitivity(form, MinSeparation(b, k)).value
        assert sensitivity(form, MinSeparation(b, k + 1)).value >= value * (1 - 1e-12)
        assert sensitivity(form, MinSeparation(b + 1, k)).value <= value * (1 + 1e-12)
        assert sensitivity(3 * form, MinSeparation(b, k)).value == pytest.approx(3 * value)
    assert sensitivity(strategy, MinSeparation(b, k)).value == pytest.approx(
        search_all_patterns(strategy, MinSeparation(b, k))
    )


@pytest.mark.parametrize("strategy", [toeplitz.square_root_series(12), *RISING])
@pytest.mark.parametrize("period", [2, 3, 5])
def test_a_fixed_epoch_is_one_of_the_patterns_of_minimum_separation(strategy, period):
    epochs = math.ceil(len(strategy) / period)
    schema = FixedEpoch(period, epochs)
    for form in (strategy, toeplitz.to_matrix(strategy)):
        found = sensitivity(form, schema)
        assert found.value == pytest.approx(search_all_patterns(strategy, schema))
        assert found.value <= sensitivity(form, MinSeparation(period, epochs)).value * (1 + 1e-12)
    assert sensitivity(strategy, schema).exact == (strategy.min() >= 0 or period == 5)


def test_for_recorded_participations_it_is_that_of_the_worst_unit():
    strategy = toeplitz.square_root_series(12)
    times = ((0, 4, 8), (3,), (), (11, 1))
    columns = toeplitz.to_matrix(strategy)
    worst = max(np.linalg.norm(columns[:, list(unit)].sum(axis=1)) for unit in times)
    for form in (strategy, columns):
        assert sensitivity(form, Observed(times)) == (pytest.approx(worst), True)
    even = Observed(((0, 3, 6, 9),))
    assert sensitivity(strategy, even).value == sensitivity(strategy, MinSeparation(3, 4)).value
    assert sensitivity(strategy, Observed(((),))) == (0.0, True)
    assert not sensitivity(np.array([1.0, -0.5, 0.0]), Observed(((0, 1),))).exact


def test_a_schema_admits_the_participations_that_satisfy_it():
    assert Single().admits([4])
    assert not Single().admits([4, 9])
    assert MinSeparation(3, 2).admits([7, 4])
    assert not MinSeparation(3, 2).admits([4, 6])
    assert not MinSeparation(3, 2).admits([0, 3, 6])
    assert FixedEpoch(5, 3).admits([2, 12])
    assert not FixedEpoch(5, 3).admits([2, 11])
    assert not FixedEpoch(5, 3).admits([2, 2])
    assert Observed(((1, 4),)).admits([4])
    assert not Observed(((1, 4),)).admits([4, 5])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: MinSeparation(0, 2), r"min_separation: separation must be .* at least 1; got 0\."),
        (lambda: MinSeparation(2, 0), r"min_separation: most must be .* at least 1; got 0\."),
        (lambda: MinSeparation(2.5, 1), r"separation must be a whole number"),
        (lambda: FixedEpoch(0, 1), r"fixed_epoch: period must be .* got 0\. Use 1\."),
        (lambda: FixedEpoch(1, True), r"epochs must be a whole number of at least 1; got True\."),
        (lambda: Observed(((1, 1),)), r"times must be different for one unit; got \(1, 1\)\."),
        (lambda: Observed(((-1,),)), r"observed: times must be .* at least 0; got -1\."),
        (lambda: sensitivity(np.ones(4), Observed(((4,),))), r"time must be below 4; got 4\."),
        (lambda: sensitivity(np.ones(4), FixedEpoch(1, 3)), r"must be at least 4 rounds in all"),
        (lambda: sensitivity(np.array([1, np.nan]), Single()), r"strategy must be finite"),
    ],
)
def test_an_invalid_schema_is_refused(wrong, message):
    with pytest.raises(PrivacyError, match=message):
        wrong()
