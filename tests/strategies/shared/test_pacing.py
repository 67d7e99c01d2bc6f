"""Pacing functions (arXiv:2012.03107, section 3)."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from fedsim.core.errors import InputError
from strategies.shared.pacing import pace

SHAPES = ("log", "root", "linear", "quad", "exp")  # from the fastest to the slowest
ALL = (*SHAPES, "step")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [  # N = 1000, T = 100, a = .8, b = .2 at s = 0, 20, 40, 60, 79, 80
        ("linear", (200, 400, 600, 800, 989, 1000)),
        ("quad", (200, 250, 400, 650, 980, 1000)),
        ("root", (200, 600, 765, 892, 994, 1000)),
        ("step", (200, 200, 200, 200, 200, 1000)),
        ("exp", (200, 200, 205, 265, 905, 1000)),
        ("log", (200, 889, 944, 976, 998, 1000)),
    ],
)
def test_the_spot_values_of_the_spec(shape, expected):
    g = pace("test", shape, 0.8, 0.2)
    got = [g(s, 1000, 100) for s in (0, 20, 40, 60, 79, 80)]
    assert got == pytest.approx(expected, abs=1)  # some expected values are rounded, ours are cut


@given(
    draw.sampled_from(ALL),
    draw.floats(0.05, 1),
    draw.floats(0, 1),
    draw.integers(1, 500),
    draw.integers(1, 300),
)
@settings(deadline=None)
def test_it_never_falls_and_is_everything_from_a_t_on(shape, a, b, n, t):
    g = pace("test", shape, a, b)
    values = [g(s, n, t) for s in range(2 * t)]
    assert values == sorted(values)
    assert values[0] == max(1, int(b * n))
    assert all(values[s] == n for s in range(math.ceil(a * t), 2 * t))


@given(draw.floats(0, 1), draw.integers(10, 2000))
@settings(deadline=None)
def test_at_the_same_a_and_b_the_shapes_are_ordered(b, n):
    for s in range(1, 100, 7):
        values = [pace("test", shape, 0.9, b)(s, n, 100) for shape in SHAPES]
        assert values == sorted(values, reverse=True)


def test_the_exponential_does_not_overflow():
    assert pace("test", "exp", 0.001, 0.2)(10**9, 50, 10) == 50


@pytest.mark.parametrize("values", [("cubic", 0.8, 0.2), ("linear", 0.0, 0.2), ("linear", 1, 1.5)])
def test_a_pace_out_of_range_is_refused(values):
    with pytest.raises(InputError, match="test: "):
        pace("test", *values)
