"""Correlated noise: the losses of the families, and the results of the optimisers."""

import numpy as np
import pytest

from privacy.matrix_factorization import (
    MinSeparation,
    Single,
    banded,
    banded_inverse,
    banded_square_root,
    banded_toeplitz,
    blt,
    blt_optimised,
    independent,
    lambda_cgd,
    nu_ftrl,
    square_root,
    toeplitz,
    tree,
)
from privacy.matrix_factorization.objective import log_loss

RUNS = ((1000, Single()), (1000, MinSeparation(100, 10)), (2000, MinSeparation(100, 20)))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            independent,
            ((22.371857, 31.622777), (70.746025, 100), (141.456707, 200)),
        ),
        (
            square_root,
            ((3.102239, 3.265003), (15.716159, 16.540733), (30.596538, 32.094754)),
        ),
        (
            lambda rounds: lambda_cgd(0.96, rounds=rounds),
            ((4.790509, None), (None, None), (26.165820, None)),
        ),
        (
            lambda rounds: lambda_cgd(0.95, rounds=rounds),
            ((None, None), (15.267978, None), (None, None)),
        ),
        (
            lambda rounds: nu_ftrl(0.01, rounds=rounds),
            ((3.941802, 5.125465), (13.355699, 17.366213), (24.689101, 33.259002)),
        ),
        (
            lambda rounds: nu_ftrl(0.001, rounds=rounds),
            ((3.062059, 3.367120), (14.134746, 15.542935), (24.961640, 28.332160)),
        ),
        (
            lambda rounds: banded_inverse(10, rounds=rounds),
            ((6.036956, 8.366629), (19.091651, 26.459156), (37.427706, 52.381601)),
        ),
        (
            lambda rounds: banded_inverse(100, rounds=rounds),
            ((3.207965, 3.830152), (12.703183, 15.166973), (21.918218, 27.670276)),
        ),
        (
            lambda rounds: banded_square_root(100, rounds=rounds),
            ((3.827364, 4.961194), (12.103189, 15.688672), (22.189548, 29.847747)),
        ),
    ],
)
def test_families_have_their_reference_losses(make, expected):
    for (rounds, schema), row in zip(RUNS, expected, strict=True):
        made = make(rounds=rounds)
        assert made.sensitivity(schema).exact
        for found, value in zip(made.loss(schema), row, strict=True):
            assert value is None or found == pytest.approx(value, abs=6e-7)


def test_the_tree_has_a_larger_loss_than_the_square_root():
    assert tree(rounds=1000).loss(Single())[1] ** 2 == pytest.approx(90)
    assert square_root(rounds=1000).loss(Single())[1] ** 2 == pytest.approx(10.660, abs=5e-4)


@pytest.mark.parametrize(
    ("rounds", "schema", "theta", "omega", "sens", "maxerr"),
    [
        (
            1000,
            Single(),
            (0.998077237961725, 0.907991946964208),
            (0.06717569730268, 0.319703064500744),
            1.786014237033,
            3.458090633125,
        ),
        (
            1000,
            MinSeparation(100, 10),
            (0.986071869167467, 0.623144259588399),
            (0.231318554142415, 0.27253806063048),
            6.842119591081,
            4.776105243572,
        ),
        (
            2000,
            MinSeparation(100, 20),
            (0.987943795572975, 0.609932968928875),
            (0.238575809444923, 0.268221539638924),
            10.929559876774,
            None,
        ),
    ],
)
def test_blts_have_their_reference_sensitivities_and_errors(
    rounds, schema, theta, omega, sens, maxerr
):
    made = blt(theta, omega, rounds=rounds)
    assert made.sensitivity(schema) == (pytest.approx(sens, abs=5e-12), True)
    if maxerr:
        assert made.errors().max() == pytest.approx(maxerr, abs=5e-12)


def test_scaling_the_strategy_changes_no_loss():
    schema = MinSeparation(3, 4)
    for scale in (1e-3, 7.0):
        for normalised in (False, True):
            one = banded_toeplitz((1, 0.5, 0.3), rounds=12, normalised=normalised)
            other = banded_toeplitz(
                [scale, 0.5 * scale, 0.3 * scale], rounds=12, normalised=normalised
            )
            assert other.loss(schema) == pytest.approx(one.loss(schema))


def test_the_loss_of_normalised_columns_is_that_of_their_matrix():
    made = banded_toeplitz((1, 0.5, 0.3), rounds=12, normalised=True)
    prefix = np.tril(np.ones((12, 12))) @ np.linalg.inv(made.strategy)
    np.testing.assert_allclose(made.errors(), (prefix**2).sum(axis=1))


# --- optimisers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["mean", "max"])
def test_the_gradient_is_that_of_the_loss(error):
    c, schema = toeplitz.square_root_series(40), MinSeparation(7, 4)
    value, gradient = log_loss(c, toeplitz.invert(c), schema, error)
    losses = nu_ftrl(0.0, rounds=40).loss(schema)
    assert value == pytest.approx(2 * np.log(losses[error == "max"]))
    for place in (0, 1, 6, 7, 20, 39):
        move = 1e-6 * np.eye(40)[place]
        ends = [log_loss(c + m, toeplitz.invert(c + m), schema, error)[0] for m in (move, -move)]
        assert gradient[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)


@pytest.mark.parametrize(
    ("bands", "coefficients", "loss"),
    [
        (4, (1, 0.492951241645, 0.335961775723, 0.238266220234), 2.508783879233),
        (2, (1, 0.523893024889), 3.060884045196),
    ],
)
def test_small_banded_strategies_have_their_reference_coefficients(bands, coefficients, loss):
    made = banded(bands, rounds=8, separation=8, participations=1)
    assert made.loss(Single())[0] ** 2 == pytest.approx(loss, abs=6e-13)
    assert made.coefficients[:bands] == pytest.approx(coefficients, abs=1e-6)


@pytest.mark.parametrize(
    ("rounds", "k", "mean", "largest"),
    [(1000, 10, 11.572671, 14.293214), (2000, 20, 20.206693, 25.763866)],
)
def test_banded_strategies_have_their_reference_losses(rounds, k, mean, largest):
    """Each of the two values is of another strategy, the optimum for its error."""
    schema = MinSeparation(100, k)
    for place, (error, expected) in enumerate((("mean", mean), ("max", largest))):
        made = banded(100, rounds=rounds, separation=100, participations=k, error=error)
        assert made.loss(schema)[place] == pytest.approx(expected, abs=6e-7)
        assert made.sensitivity(schema).exact


@pytest.mark.parametrize(
    ("rounds", "bands", "b", "k"), [(30, 5, 7, 3), (64, 8, 8, 99), (9, 1, 1, 9)]
)
def test_its_loss_is_never_above_that_of_the_banded_square_root(rounds, bands, b, k):
    schema = MinSeparation(b, k)
    start = banded_square_root(bands, rounds=rounds).loss(schema)
    for place, error in enumerate(("mean", "max")):
        made = banded(bands, rounds=rounds, separation=b, participations=k, error=error)
        assert made.loss(schema)[place] <= start[place] * (1 + 1e-12)


def test_the_same_arguments_give_the_same_coefficients():
    one, other = (banded(9, rounds=99, separation=9, participations=5) for _ in range(2))
    np.testing.assert_array_equal(one.coefficients, other.coefficients)
    one, other = (blt_optimised(2, rounds=99, separation=9, participations=5) for _ in range(2))
    assert one.parameters == other.parameters


@pytest.mark.parametrize(
    ("buffers", "run", "largest"),
    [(2, 0, 3.321262), (4, 0, 3.265380), (2, 1, 14.952975), (2, 2, 27.016177)],
)
def test_optimised_blts_have_their_reference_losses(buffers, run, largest):
    rounds, schema = RUNS[run]
    b, k = (rounds, 1) if run == 0 else (schema.separation, schema.most)
    made = blt_optimised(buffers, rounds=rounds, separation=b, participations=k)
    assert made.loss(schema)[1] == pytest.approx(largest, abs=6e-7)
    assert made.sensitivity(schema).exact


@pytest.mark.parametrize("error", ["mean", "max"])
@pytest.mark.parametrize("rounds", [2, 5, 40])
def test_an_optimised_blt_has_valid_parameters(rounds, error):
    made = blt_optimised(2, rounds=rounds, separation=3, participations=5, error=error)
    better = made.loss(MinSeparation(3, 5))[error == "max"]
    assert better <= independent(rounds=rounds).loss(MinSeparation(3, 5))[error == "max"]
