"""Delta-SGD: its invariants on objectives whose smoothness is known."""

import math

import pytest
import torch

from fedsim.core.errors import InputError
from strategies.step_rules import delta_sgd, sgd

ROUND = torch.tensor(1.0, dtype=torch.float64)


def walk(rule, gradient, start, steps):
    """Points and learning rates of some steps from a start, in float64."""
    point = {"x": torch.tensor(start, dtype=torch.float64)}
    state = rule.init(point, ROUND)
    points, rates = [point["x"]], []
    for _ in range(steps):
        point, state = rule.step(state, point, gradient)
        points.append(point["x"])
        rates.append(float(getattr(state, "lr", torch.tensor(math.nan))))
    return points, rates


def quadratic(*curvatures, scale=1.0):
    """The gradient of scale / 2 * sum_i c_i x_i^2."""
    spectrum = scale * torch.tensor(curvatures, dtype=torch.float64)
    return lambda tree: {"x": spectrum * tree["x"]}


def test_one_local_step_is_a_step_of_sgd_with_the_same_lr():
    ours, rates = walk(delta_sgd(lr=0.3), quadratic(1.0, 4.0), [1.0, 2.0], 1)
    theirs, _ = walk(sgd(0.3), quadratic(1.0, 4.0), [1.0, 2.0], 1)
    torch.testing.assert_close(ours[-1], theirs[-1])
    assert rates == [0.3]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5])
def test_on_a_quadratic_of_curvature_l_the_learning_rate_is_capped_at_gamma_over_2_l(gamma):
    curvature = 4.0
    _, rates = walk(delta_sgd(lr=0.01, gamma=gamma), quadratic(curvature), [1.0], 100)
    cap = gamma / (2 * curvature)
    assert max(rates) == pytest.approx(cap, rel=1e-9)
    assert rates[-1] == pytest.approx(cap, rel=1e-9)


def test_on_any_quadratic_the_cap_lies_between_those_of_its_curvatures():
    gradient = quadratic(1.0, 3.0, 10.0)
    points, rates = walk(delta_sgd(growth=1e6), gradient, [1.0, -2.0, 0.5], 60)
    assert all(1 / 10 - 1e-9 <= rate <= 1 + 1e-9 for rate in rates[1:])
    assert points[-1].norm() < 1e-2 * points[0].norm()


@pytest.mark.parametrize("c", [0.01, 7.0, 1000.0])
def test_scaling_the_objective_by_c_and_lr_by_its_inverse_leaves_every_iterate_where_it_was(c):
    plain, rates = walk(delta_sgd(lr=0.2), quadratic(1.0, 5.0), [1.0, 2.0], 30)
    scaled, others = walk(delta_sgd(lr=0.2 / c), quadratic(1.0, 5.0, scale=c), [1.0, 2.0], 30)
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert others == pytest.approx([rate / c for rate in rates], rel=1e-9)


@pytest.mark.parametrize("growth", [0.0, 0.1, 1.0])
def test_a_steps_learning_rate_is_at_most_sqrt_of_1_plus_growth_times_ratio_of_the_one_before(
    growth,
):
    def constant(tree):  # a linear objective: nothing caps the learning rate
        return {"x": torch.ones_like(tree["x"])}

    _, rates = walk(delta_sgd(lr=0.2, growth=growth), constant, [0.0, 0.0], 40)
    ratio, expected = 1.0, [0.2]
    for _ in range(39):
        ratio = math.sqrt(1 + growth * ratio)
        expected.append(expected[-1] * ratio)
    assert rates == pytest.approx(expected, rel=1e-12)
    # the ratio's fixed point: theta = sqrt(1 + growth * theta)
    fixed = (growth + math.sqrt(growth**2 + 4)) / 2
    assert rates[-1] / rates[-2] == pytest.approx(fixed, rel=1e-9)


def test_at_a_zero_gradient_nothing_moves_and_the_learning_rate_stays_finite():
    points, rates = walk(delta_sgd(), quadratic(2.0), [0.0], 50)
    assert all(float(point) == 0 for point in points)
    assert all(math.isfinite(rate) and rate > 0 for rate in rates)


def test_both_gradients_of_a_step_are_asked_at_the_current_point_first():
    """The loss that is reported is the one at the first point asked."""
    asked = []
    rule = delta_sgd()
    first = {"x": torch.tensor([1.0])}
    point, state = rule.step(rule.init(first, ROUND), first, quadratic(1.0))

    def gradient(tree):
        asked.append(tree)
        return quadratic(1.0)(tree)

    rule.step(state, point, gradient)
    assert asked == [point, first]


def test_a_new_round_starts_anew():
    rule = delta_sgd(lr=0.25)
    state = rule.init({"x": torch.ones(2)}, torch.tensor(7.0))
    assert (float(state.lr), float(state.ratio), float(state.reach)) == (0.25, 1.0, 0.0)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"gamma": -1.0}, {"growth": -0.1}])
def test_a_value_out_of_its_range_is_refused(wrong):
    with pytest.raises(InputError, match=f"delta_sgd: {next(iter(wrong))} must be"):
        delta_sgd(**wrong)
