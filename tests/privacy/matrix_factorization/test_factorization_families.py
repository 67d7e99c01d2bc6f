"""Correlated noise: every family streams exactly C^-1 Z."""

import json

import numpy as np
import pytest
import torch

from fedsim.core.errors import InputError, PrivacyError
from fedsim.core.rng import Purpose, client_keys, normals
from privacy.matrix_factorization import (
    FAMILIES,
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
    """C and C^-1 of a factorization, in full."""
    c, b = made.strategy, made.inverse
    if made.column_scale is not None:
        return c, made.column_scale[:, None] * toeplitz.to_matrix(b)
    return (c, b) if c.ndim == 2 else (toeplitz.to_matrix(c), toeplitz.to_matrix(b))


def draws_at(source, t, reach):
    """draw(back) of a source [n, ..., d] at time t, which checks that `reach` is respected."""

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


# --- every family ---------------------------------------------------------------------------------


@every_family
def test_c_c_inverse_is_the_identity(make):
    made = make(1000)
    if made.strategy.ndim == 1:
        product = toeplitz.multiply(made.coefficients, made.inverse)
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
    # projected on the shift of a unit with the most participations
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
@pytest.mark.parametrize("t", [-1, 24, np.int64(24)])
def test_running_past_the_rounds_is_refused(make, t):
    made = make(24)
    with pytest.raises(PrivacyError, match=r"t must be at least 0 and below 24, .* got .*\."):
        made.step(made.buffers(torch.zeros(2)), t, lambda back: torch.zeros(2))


@every_family
def test_a_recorded_factorization_is_rebuilt_bit_for_bit(make):
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
def test_an_unknown_name_or_parameter_is_refused(name, parameters, message):
    with pytest.raises(InputError, match=message):
        rebuild(name, parameters, 10)
