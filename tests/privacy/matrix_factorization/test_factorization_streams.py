"""Correlated noise: the streams, closed forms and refusals of each family."""

import numpy as np
import pytest
import torch

from fedsim.core.errors import PrivacyError
from privacy.matrix_factorization import (
    MinSeparation,
    Single,
    banded,
    banded_inverse,
    banded_square_root,
    banded_toeplitz,
    blt,
    independent,
    lambda_cgd,
    nu_ftrl,
    square_root,
    toeplitz,
    tree,
)
from privacy.matrix_factorization.blt import invert_blt
from tests.privacy.matrix_factorization.test_factorization_families import (
    CASES,
    OMEGA,
    THETA,
    streamed,
)


@pytest.mark.parametrize(
    "made",
    [
        independent(rounds=9),
        nu_ftrl(1.0, rounds=9),
        lambda_cgd(0.0, rounds=9),
        banded_inverse(1, rounds=9),
        banded_square_root(1, rounds=9),
        banded(1, rounds=9, separation=3, participations=2),
        blt(THETA, (0.0, 0.0), rounds=9),
        tree(rounds=9, period=1),
    ],
    ids=lambda made: made.name,
)
def test_with_nothing_to_correlate_the_noise_is_independent_bit_for_bit(made):
    source = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(streamed(made, source)[0], source)
    assert made.reach == 0
    assert made.sensitivity(Single()) == (1.0, True)


SCALED = (1.17924764, 1.76887146, 2.21108933, 2.9481191, 3.40650981, 3.5390625)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (square_root(rounds=6), (1, 1.5, 1.875, 2.1875, 2.4609375, 2.70703125)),
        (
            banded_toeplitz((1, 0.5, 0.375), rounds=6),
            (1, 1.5, 1.875, 2.5, 3.046875, 3.5390625),
        ),
        (banded_toeplitz((1, 0.5, 0.375), rounds=6, normalised=True), SCALED),
        (blt(THETA, OMEGA, rounds=6), (1, 1.55, 1.9775, 2.353875, 2.69944375, 3.02315969)),
        (nu_ftrl(0.1, rounds=6), (1, 1.55, 1.99875, 2.4019375, 2.77949609, 3.14090848)),
        (lambda_cgd(0.5, rounds=6), (1, 1.5, 2, 2.5, 3, 3.5)),
        (tree(rounds=6), (1, 1, 3, -1, 5, 1)),
    ],
    ids=lambda made: getattr(made, "name", ""),
)
def test_the_streams_of_the_numbers_from_1_to_6(made, expected):
    source = torch.arange(1, 7, dtype=torch.float64).unsqueeze(-1)
    found = streamed(made, source)[0].squeeze(-1).tolist()
    assert found == pytest.approx(expected, abs=5e-9)


def test_buffers_and_reach_are_those_of_the_family():
    like = torch.zeros(3)
    for name in ("independent", "lambda_cgd", "nu_ftrl", "banded_inverse", "tree"):
        assert CASES[name](24).buffers(like) == ()
    assert len(CASES["banded_square_root"](24).buffers(like)) == 5
    assert len(CASES["blt"](24).buffers(like)) == 2
    assert [CASES[name](24).reach for name in ("lambda_cgd", "banded_inverse", "tree")] == [1, 5, 8]


def test_the_inverse_is_a_blt_with_the_decays_and_weights_of_invert_blt():
    made = blt(THETA, OMEGA, rounds=1000)
    hats, weights = invert_blt(THETA, OMEGA)
    assert hats == pytest.approx([0.758945417290014, 0.191054582709986], abs=1e-14)
    assert weights == pytest.approx([-0.064317709595574, -0.385682290404426], abs=1e-14)
    assert made.coefficients[:5] == pytest.approx([1, 0.45, 0.325, 0.2525, 0.20725])
    assert made.inverse[:5] == pytest.approx([1, -0.45, -0.1225, -0.051125, -0.03080625])
    closed = weights @ hats[:, None] ** np.arange(999)
    np.testing.assert_allclose(made.inverse[1:], closed, atol=1e-15)
    assert made.sensitivity(Single()).value == pytest.approx(1.250639389901, abs=5e-13)
    assert made.sensitivity(MinSeparation(100, 10)).value == pytest.approx(
        3.954911172941, abs=5e-13
    )
    pairs = np.multiply.outer(THETA, THETA)
    square = 1 + np.sum(np.multiply.outer(OMEGA, OMEGA) * (1 - pairs**999) / (1 - pairs))
    assert made.sensitivity(Single()).value ** 2 == pytest.approx(square)


def test_lambda_cgd_has_its_closed_forms():
    made, lam, t = lambda_cgd(0.95, rounds=1000), 0.95, np.arange(1000)
    square = (1 - lam**2000) / (1 - lam**2)
    assert made.sensitivity(Single()).value == pytest.approx(square**0.5)
    assert made.sensitivity(Single()).value == pytest.approx(3.2025630761, abs=5e-11)
    np.testing.assert_allclose(made.errors(), 1 + t * (1 - lam) ** 2)
    assert (made.errors().max(), made.errors().mean()) == pytest.approx((3.4975, 2.24875))


def test_the_truncated_c_is_the_exact_inverse_of_the_truncated_c_inverse():
    made = nu_ftrl(0.1, rounds=100, bands=4)
    assert made.inverse[4:].tolist() == [0] * 96
    np.testing.assert_array_equal(made.inverse[:4], nu_ftrl(0.1, rounds=100).inverse[:4])
    np.testing.assert_allclose(
        toeplitz.to_matrix(made.coefficients),
        np.linalg.inv(toeplitz.to_matrix(made.inverse)),
        atol=1e-14,
    )


def test_normalised_columns_have_norm_one():
    made = banded_toeplitz((1, 0.5, 0.375), rounds=12, normalised=True)
    np.testing.assert_allclose(np.linalg.norm(made.strategy, axis=0), 1)
    assert made.sensitivity(MinSeparation(3, 4)) == (pytest.approx(2), True)


def test_the_noise_of_a_prefix_is_the_sum_of_as_many_draws_as_its_length_has_binary_ones():
    prefixes = streamed(tree(rounds=16), torch.eye(16))[0].cumsum(0)
    ones = [1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 1]
    assert prefixes.sum(1).tolist() == ones
    assert set(prefixes.flatten().tolist()) == {0, 1}
    assert tree(rounds=16).errors().tolist() == ones
    restarted = streamed(tree(rounds=16, period=5), torch.eye(16))[0]
    torch.testing.assert_close(restarted[5:10, 5:10], restarted[:5, :5])
    assert not restarted[5:, :5].any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: independent(rounds=0), r"independent: rounds must be .* at least 1; got 0\."),
        (lambda: square_root(rounds=True), r"square_root: rounds must be a whole number"),
        (lambda: lambda_cgd(float("nan"), rounds=4), r"lam must be in \[0, 1\); got nan\."),
        (
            lambda: nu_ftrl(1.5, rounds=4),
            r"nu_ftrl: nu must be in \[0, 1\]; got 1\.5\. Use 0\.01\.",
        ),
        (lambda: nu_ftrl(0.1, rounds=4, bands=5), r"bands must be .* at most 4; got 5\."),
        (lambda: banded_inverse(5, rounds=4), r"banded_inverse: bands must be .* at most 4"),
        (lambda: banded_square_root(5, rounds=4), r"banded_square_root: bands must be .* most 4"),
        (lambda: banded_toeplitz([], rounds=4), r"bands must be .* at least 1 .* got 0\."),
        (lambda: banded_toeplitz([0.0], rounds=4), r"coefficients\[0\] must be > 0; got 0\.0\."),
        (lambda: banded_toeplitz([np.inf], rounds=4), r"coefficients must be finite"),
        (
            lambda: banded(5, rounds=9, separation=4, participations=1),
            r"banded: bands must be .* at most 4; got 5\. Use fewer\.",
        ),
        (
            lambda: banded(2, rounds=9, separation=4, participations=1, error="least"),
            r"banded: error must be 'mean' or 'max'; got 'least'\.",
        ),
        (lambda: blt([1.0], [0.1], rounds=4), r"blt: theta must be in \(0, 1\); got \[1\.0\]\."),
        (lambda: blt([0.5, 0.5], [0.1, 0.1], rounds=4), r"blt: theta must be different; got"),
        (lambda: blt([0.5], [-0.1], rounds=4), r"blt: omega must be >= 0; got \[-0\.1\]\."),
        (lambda: blt([0.5], [0.5], rounds=4), r"sum\(omega / theta\) must be < 1; got 1\.0\."),
        (lambda: blt([0.5], [0.1, 0.1], rounds=4), r"blt: omega must be 1 numbers"),
        (lambda: blt([], [], rounds=4), r"blt: omega must be 1 numbers"),
        (lambda: blt([0.5], [float("nan")], rounds=4), r"blt: omega must be >= 0"),
        (lambda: tree(rounds=6000), r"tree: rounds must be .* at most 5000; got 6000\."),
        (lambda: tree(rounds=4, period=0), r"tree: period must be .* at least 1; got 0\."),
    ],
)
def test_invalid_arguments_of_a_family_are_refused(wrong, message):
    with pytest.raises(PrivacyError, match=message):
        wrong()
