"""Correlated noise: every family streams C^-1 Z, and nothing else (spec 3.3 and 3.8)."""

import json

import numpy as np
import pytest
import torch

from fedsim.rng import Purpose, client_keys, normals
from fedsim.validate import InputError, PrivacyError
from privacy.factorisation import (
    FAMILIES,
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
    rebuild,
    square_root,
    toeplitz,
    tree,
)
from privacy.factorisation.blt import inverse_of

THETA, OMEGA = (0.9, 0.5), (0.25, 0.2)
CASES = {
    "independent": lambda n: independent(rounds=n),
    "lambda_cgd": lambda n: lambda_cgd(0.9, rounds=n),
    "square_root": lambda n: square_root(rounds=n),
    "nu_ftrl": lambda n: nu_ftrl(0.1, rounds=n),
    "nu_ftrl, short": lambda n: nu_ftrl(0.1, rounds=n, bands=6),
    "banded_inverse": lambda n: banded_inverse(6, rounds=n),
    "banded_square_root": lambda n: banded_square_root(6, rounds=n),
    "banded, rising": lambda n: banded_toeplitz([2.0, -0.3, 0.6], rounds=n),
    "banded, normalised": lambda n: banded_toeplitz([1, 0.5, 0.375], rounds=n, normalised=True),
    "banded": lambda n: banded(6, rounds=n, separation=6, participations=3),
    "blt": lambda n: blt(THETA, OMEGA, rounds=n),
    "tree": lambda n: tree(rounds=n),
    "tree, restarted": lambda n: tree(rounds=n, period=6),
}
every_family = pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())


def matrices(made):
    """C and C^-1 of a factorisation, in full."""
    c, b = made.strategy, made.inverse
    if made.column_scale is not None:
        return c, made.column_scale[:, None] * toeplitz.matrix(b)
    return (c, b) if c.ndim == 2 else (toeplitz.matrix(c), toeplitz.matrix(b))


def draws_at(source, t, reach):
    """draw(back) of a source [n, ..., d] at time t, for those that keep to what they promised."""

    def draw(back):
        assert 0 <= back <= reach
        return source[t - back] if back <= t else torch.zeros_like(source[0])

    return draw


def streamed(made, source, buffers=None, start=0):
    """The noise [n, ..., d] from `start` on, and the buffers after it."""
    buffers = made.buffers(source[0]) if buffers is None else buffers
    outputs = []
    for t in range(start, made.rounds):
        noise, buffers = made.step(buffers, t, draws_at(source, t, made.reach))
        outputs.append(noise)
    return torch.stack(outputs), buffers


# --- what every family must do --------------------------------------------------------------------


@every_family
def test_c_c_inverse_is_the_identity(make):
    made = make(1000)
    if made.strategy.ndim == 1:
        product = toeplitz.product(made.coefficients, made.inverse)
        np.testing.assert_allclose(product, np.eye(1000)[0], atol=1e-12)
    c, inverse = matrices(made)
    np.testing.assert_allclose(c @ inverse, np.eye(1000), atol=1e-12)


@every_family
def test_the_streamed_noise_is_the_inverse_applied_to_the_draws(make):
    made = make(24)
    noise, _ = streamed(made, torch.eye(24, dtype=torch.float64))
    c, inverse = matrices(made)
    np.testing.assert_allclose(noise.numpy(), inverse, atol=1e-14)
    np.testing.assert_allclose(c @ noise.numpy(), np.eye(24), atol=1e-13)


@every_family
def test_the_covariance_of_the_streamed_noise_is_the_inverse_of_c_transposed_c(make):
    n, d = 24, 20_000
    made = make(n)
    keys = torch.stack([client_keys(7, Purpose.NOISE, t, torch.tensor(0)) for t in range(n)])
    noise, _ = streamed(made, normals(keys, d))
    c, _ = matrices(made)
    # C noise is white exactly if the covariance is that
    white = torch.tensor(c).float() @ noise
    covariance = (white @ white.T / d).numpy()
    np.testing.assert_allclose(covariance, np.eye(n), atol=6 * (2 / d) ** 0.5)
    # seen along the shift of a unit that takes part as often as it can
    shift = c[:, ::6].sum(axis=1)
    seen = torch.tensor(shift / np.linalg.norm(shift)).float() @ white

    def accepted(scale):
        return abs(float((scale * seen).var()) - 1) < 5 * (2 / d) ** 0.5

    assert accepted(1)
    assert not accepted(2 / 3)
    assert not accepted(3 / 2)


@every_family
def test_stored_buffers_continue_the_same_stream(make):
    made = make(24)
    source = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
    whole, _ = streamed(made, source)
    buffers = made.buffers(source[0])
    for t in range(11):
        _, buffers = made.step(buffers, t, draws_at(source, t, made.reach))
    stored = [buffer.tolist() for buffer in buffers]  # killed here
    again = rebuild(made.name, made.parameters, made.rounds)
    resumed, _ = streamed(again, source, tuple(torch.tensor(part) for part in stored), start=11)
    assert torch.equal(resumed, whole[11:])


@every_family
def test_a_client_in_a_stack_gets_the_noise_that_it_gets_alone(make):
    made = make(24)
    source = torch.randn(24, 4, 5, generator=torch.Generator().manual_seed(0))
    now = torch.tensor([0, 5, 23, 11])
    alone, buffers = [], []
    for client, t in enumerate(now.tolist()):
        own, kept = source[:, client], made.buffers(source[0, client])
        for earlier in range(t):
            _, kept = made.step(kept, earlier, draws_at(own, earlier, made.reach))
        buffers.append(kept)
        alone.append(made.step(kept, t, draws_at(own, t, made.reach)))

    def draw(back):
        found = [source[max(t - back, 0), client] for client, t in enumerate(now.tolist())]
        return torch.where((now >= back).unsqueeze(-1), torch.stack(found), 0)

    stack = tuple(torch.stack(parts) for parts in zip(*buffers, strict=True))
    assert len(made.buffers(source[0])) == len(stack)
    noise, after = made.step(stack, now, draw)
    torch.testing.assert_close(noise, torch.stack([one for one, _ in alone]))
    for place, part in enumerate(after):
        torch.testing.assert_close(part, torch.stack([kept[place] for _, kept in alone]))


@every_family
@pytest.mark.parametrize("t", [-1, 24])
def test_running_past_the_rounds_is_refused(make, t):
    made = make(24)
    with pytest.raises(PrivacyError, match=r"t must be at least 0 and below 24, .* got -?\d+\."):
        made.step(made.buffers(torch.zeros(2)), t, lambda back: torch.zeros(2))


@every_family
def test_what_was_written_down_is_rebuilt_bit_for_bit(make):
    made = make(24)
    line = json.loads(json.dumps([made.name, made.parameters, made.rounds]))
    again = rebuild(*line)
    assert again.parameters == made.parameters
    np.testing.assert_array_equal(again.strategy, made.strategy)
    np.testing.assert_array_equal(again.inverse, made.inverse)
    with pytest.raises(ValueError, match="read-only"):
        made.coefficients[0] = 0


def test_every_family_of_the_catalogue_is_in_this_battery():
    assert {make(24).name for make in CASES.values()} == set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("blt2", {}, r"rebuild: name must be a known name; got 'blt2'\. Did you mean blt"),
        ("lambda_cgd", {"nu": 1.0}, r"rebuild: parameters must be those of lambda_cgd; got"),
        (
            "lambda_cgd",
            {"lam": 1.0},
            r"lambda_cgd: lam must be in \[0, 1\); got 1\.0\. Use 0\.95\.",
        ),
    ],
)
def test_a_line_that_nobody_wrote_is_refused(name, parameters, message):
    with pytest.raises(InputError, match=message):
        rebuild(name, parameters, 10)


# --- each family ----------------------------------------------------------------------------------


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


def test_memory_is_what_the_family_says():
    like = torch.zeros(3)
    for name in ("independent", "lambda_cgd", "nu_ftrl", "banded_inverse", "tree"):
        assert CASES[name](24).buffers(like) == ()
    assert len(CASES["banded_square_root"](24).buffers(like)) == 5
    assert len(CASES["blt"](24).buffers(like)) == 2
    assert [CASES[name](24).reach for name in ("lambda_cgd", "banded_inverse", "tree")] == [1, 5, 8]


def test_the_inverse_is_a_blt_with_the_decays_and_weights_of_inverse_of():
    made = blt(THETA, OMEGA, rounds=1000)
    hats, weights = inverse_of(THETA, OMEGA)
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


def test_the_shortened_c_is_the_exact_inverse_of_the_shortened_c_inverse():
    made = nu_ftrl(0.1, rounds=100, bands=4)
    assert made.inverse[4:].tolist() == [0] * 96
    np.testing.assert_array_equal(made.inverse[:4], nu_ftrl(0.1, rounds=100).inverse[:4])
    np.testing.assert_allclose(
        toeplitz.matrix(made.coefficients), np.linalg.inv(toeplitz.matrix(made.inverse)), atol=1e-14
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
def test_a_family_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(PrivacyError, match=message):
        wrong()
