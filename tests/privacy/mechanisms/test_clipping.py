"""Clipping rules and the clip norm that follows a quantile."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw

from fedsim.core.errors import PrivacyError
from privacy import client_dp, dp_sgd
from privacy.mechanisms.clipping import (
    automatic,
    flat,
    followed,
    layer_squares,
    per_layer,
    quantile,
    scaled,
    split_noise,
)

RULES = {"flat": flat(0.7), "per layer": per_layer(0.7), "automatic": automatic(0.7)}
every = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def clipped(rule, stack):
    return scaled(stack, rule.factors(layer_squares(stack)))


def lengths(stack):
    return torch.cat([t.reshape(len(t), -1).double() for t in stack.values()], dim=1).norm(dim=1)


def stack_of(*rows):
    """One layer of two numbers."""
    return {"layer.weight": torch.tensor(rows)}


def general(seed, count=5, scale=1.0):
    stream = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (3, 4), "a.bias": (3,), "b.weight": (2, 3), "c": ()}
    return {n: scale * torch.randn(count, *s, generator=stream) for n, s in shapes.items()}


# --- all rules -----------------------------------------------------------------------------------


@every
@given(seed=draw.integers(0, 10**6), power=draw.floats(-30, 37))
@settings(max_examples=40, deadline=None)
def test_nothing_comes_out_longer_than_the_bound(rule, seed, power):
    assert (lengths(clipped(rule, general(seed, scale=10**power))) <= rule.bound * (1 + 1e-6)).all()


@every
@pytest.mark.parametrize("value", [1e36, -3e36, 3e38, 1e-38, 65504.0])
def test_extreme_lengths_are_clipped_and_not_lost(rule, value):
    stack = {"a.weight": torch.full((1, 3, 4), value), "b": torch.zeros(1, 2)}
    length = float(lengths(clipped(rule, stack)))
    assert length <= rule.bound * (1 + 1e-6)
    if 1 < abs(value) < 1e37:  # beyond, the factor is no ordinary float, and 0 is what is left
        assert length > 0.5 * rule.bound  # a norm that overflows would make 0 of it


@every
def test_half_precision_does_not_overflow_the_norm(rule):
    stack = {"a.weight": torch.full((1, 40, 10), 60_000.0, dtype=torch.float16)}
    squares = layer_squares(stack)
    assert float(squares["a"].sqrt()) == pytest.approx(20 * 60_000, rel=1e-3)
    if rule.name.startswith("flat"):  # the factor, 6e-7, is below the smallest ordinary half
        assert float(lengths(clipped(rule, stack))) <= rule.bound


@every
def test_zero_stays_zero_and_no_clients_are_no_clients(rule):
    zero = {name: torch.zeros_like(value) for name, value in general(1).items()}
    assert all(torch.equal(value, zero[name]) for name, value in clipped(rule, zero).items())
    nobody = {name: value[:0] for name, value in general(1).items()}
    assert all(len(value) == 0 for value in clipped(rule, nobody).values())


@every
def test_the_sum_of_clipped_updates_does_not_know_their_order(rule):
    stack, order = general(3), torch.tensor([4, 2, 0, 1, 3])
    forth = clipped(rule, stack)
    back = clipped(rule, {name: value[order] for name, value in stack.items()})
    for name in stack:
        torch.testing.assert_close(forth[name].sum(dim=0), back[name].sum(dim=0))


@every
def test_one_client_does_not_change_what_becomes_of_another(rule):
    stack = general(4)
    alone = clipped(rule, {name: value[2:3] for name, value in stack.items()})
    for name, value in clipped(rule, stack).items():
        assert torch.equal(value[2:3], alone[name])


# --- flat and per layer --------------------------------------------------------------------------


def test_flat_clipping_is_u_times_the_smaller_of_1_and_c_over_its_length():
    found = clipped(flat(1.0), stack_of([3.0, 4.0], [0.3, 0.4]))["layer.weight"]
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.3, 0.4]]), rtol=1e-7, atol=0)


def test_what_is_short_enough_stays_as_it_was_bit_for_bit():
    stack = general(1, scale=0.01)
    assert all(torch.equal(v, stack[name]) for name, v in clipped(flat(0.7), stack).items())


@given(seed=draw.integers(0, 10**6), factor=draw.floats(1.0, 1e6))
@settings(max_examples=30, deadline=None)
def test_clipping_twice_is_clipping_once_and_longer_is_the_same(seed, factor):
    rule = flat(0.7)
    once = clipped(rule, general(seed, scale=3.0))
    longer = clipped(rule, general(seed, scale=3.0 * factor))
    twice = clipped(rule, once)
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value, rtol=1e-6, atol=0)
        torch.testing.assert_close(longer[name], value, rtol=1e-5, atol=1e-7)


def test_per_layer_with_one_layer_is_flat():
    stack = stack_of([3.0, 4.0], [0.1, 0.0], [1e20, 1e20])
    one, other = (clipped(rule(0.9), stack) for rule in (flat, per_layer))
    assert torch.equal(one["layer.weight"], other["layer.weight"])


def test_per_layer_gives_each_layer_its_share_and_together_they_keep_the_bound():
    rule, stack = per_layer(2.0), general(5, scale=100.0)  # layers "a", "b" and ""
    stack["c"] = 100 + stack["c"].abs()  # long enough, too
    found = clipped(rule, stack)
    for layer in (("a.weight", "a.bias"), ("b.weight",), ("c",)):
        part = lengths({name: found[name] for name in layer})
        torch.testing.assert_close(part, torch.full_like(part, 2 / math.sqrt(3)))
    torch.testing.assert_close(lengths(found), torch.full((5,), 2.0, dtype=torch.float64))


# --- automatic -----------------------------------------------------------------------------------


def test_automatic_clipping_has_the_values_of_the_spec():
    found = clipped(automatic(), stack_of([3.0, 4.0]))["layer.weight"][0]
    assert found.tolist() == pytest.approx([0.5988024, 0.79840319], abs=5e-8)
    assert float(found.double().norm()) == pytest.approx(0.998003992, abs=1e-7)


def test_automatic_clipping_keeps_longer_ones_longer():
    lengths_in = torch.logspace(-6, 6, 40)
    stack = {"x": torch.stack([lengths_in, torch.zeros(40)], dim=1)}
    out = lengths(clipped(automatic(), stack))
    assert (out[1:] >= out[:-1]).all()
    assert (out[1:30] > out[:29]).all()
    assert (out <= 1).all()


# --- a clip norm that follows a quantile ---------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "count_noise", "expected"),
    [
        (1.0, 5, 1.005037815259),
        (1.0, 2.5, 1.020620726160),
        (0.5, 5, 0.500626174322),
        (2.0, 1.5, 2.683281573000),
    ],
)
def test_the_noise_is_split_so_that_both_answers_together_have_the_multiplier(
    z, count_noise, expected
):
    found = split_noise(z, count_noise)
    assert found == pytest.approx(expected, abs=5e-13)
    assert found**-2 + (2 * count_noise) ** -2 == pytest.approx(z**-2)


def test_one_update_of_the_clip_norm():
    rule = quantile(1.0, count_noise=5.0)
    noisy_votes = torch.tensor((0.7 - 0.5) * 100)
    after = followed(rule, torch.tensor(1.0), noisy_votes, torch.tensor(100.0))
    assert float(after) == pytest.approx(0.960789439152, abs=1e-7)


def test_the_clip_norm_stays_between_its_bounds():
    rule = replace(quantile(1.0, count_noise=5.0), least=0.5, most=2.0)
    for votes, expected in ((1e6, 0.5), (-1e6, 2.0)):
        after = followed(rule, torch.tensor(1.0), torch.tensor(votes), torch.tensor(10.0))
        assert float(after) == expected


def test_without_noise_the_clip_norm_settles_at_the_quantile():
    rule, norms = quantile(0.01, count_noise=1.0, target=0.8), torch.linspace(0, 10, 1001)
    norm = torch.tensor(rule.start)
    for _ in range(400):
        votes = ((norms <= norm).float() - 0.5).sum()
        norm = followed(rule, norm, votes, torch.tensor(1001.0))
    assert float(norm) == pytest.approx(8.0, rel=0.02)


@pytest.mark.parametrize("make", [dp_sgd, client_dp])
@pytest.mark.parametrize(("z", "count_noise"), [(2.0, 1.0), (2.1, 1.0), (10.0, 0.1)])
def test_a_count_with_too_little_noise_of_its_own_is_refused(make, z, count_noise):
    with pytest.raises(PrivacyError, match=r"count_noise must be above .*, half of the noise"):
        make(noise_multiplier=z, clip=quantile(1.0, count_noise=count_noise))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: flat(0.0),
        lambda: flat(math.inf),
        lambda: per_layer(math.nan),
        lambda: automatic(-1.0),
        lambda: automatic(1.0, stability=0.0),
        lambda: quantile(0.0, count_noise=1.0),
        lambda: quantile(1.0, count_noise=math.nan),
        lambda: quantile(1.0, count_noise=1.0, target=1.0),
        lambda: quantile(1.0, count_noise=1.0, target=math.nan),
        lambda: quantile(1.0, count_noise=1.0, rate=-0.2),
    ],
)
def test_a_rule_that_bounds_nothing_is_refused(wrong):
    with pytest.raises(PrivacyError, match=r"must be .*; got .*\. Use"):
        wrong()
