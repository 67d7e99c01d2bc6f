"""Gaussian processes and random features as surrogates of gradients (arXiv:2308.04077)."""

import numpy as np
import pytest
import torch
from torch.func import vmap

from strategies.shared.gaussian_process import (
    Features,
    draw_features,
    embed,
    feature_gradient,
    fit,
    gradient_variance,
    mean_gradient,
    most_uncertain,
    posterior_mean,
    summarise,
)

DIMS = 5
_draw = np.random.default_rng(3)


def normal(*shape):
    return torch.from_numpy(_draw.normal(size=shape))


def box(count, half, dims=DIMS):
    return torch.from_numpy(_draw.uniform(-half, half, (count, dims)))


def fitted(points, values, noise=1e-8, origin=None):
    centre = torch.zeros(points.shape[1], dtype=torch.float64) if origin is None else origin
    return fit(points, values, origin=centre, length_scale=1.0, noise=noise)


def shared(count, dims=DIMS, seed=0):
    """The shared features, in float64."""
    cpu = torch.device("cpu")
    made = draw_features(dims, count, 1.0, seed, cpu)
    return Features(made.frequencies.double(), made.phases.double())


def differences(function, at, step):
    rows = torch.eye(len(at), dtype=at.dtype) * step
    return torch.stack([function(at + row) - function(at - row) for row in rows]) / (2 * step)


def kernel(points, others):
    return torch.exp(-torch.cdist(points, others).square() / 2)


class Quadratic:
    """A true quadratic and its gradient."""

    def __init__(self):
        half = normal(DIMS, DIMS)
        self.curve, self.tilt = half + half.T, normal(DIMS)

    def __call__(self, x):
        return ((x @ self.curve) * x).sum(-1) / 2 + x @ self.tilt

    def gradient(self, x):
        return self.curve @ x + self.tilt


# --- the posterior mean --------------------------------------------------------------------------


def test_the_process_is_the_textbooks():
    """With the formulas written out: alpha, mu, and the covariance of the gradient."""
    points, values, at, noise = box(8, 1.0), normal(8), normal(DIMS), 0.1
    mean, std = values.mean(), values.std(correction=0)
    system = kernel(points, points) + noise * torch.eye(8, dtype=torch.float64)
    alpha = torch.linalg.solve(system, (values - mean) / std)
    near = kernel(at[None], points)[0]
    jacobian = -(at - points) * near[:, None]
    known = jacobian.T @ torch.linalg.solve(system, jacobian)
    gp = fitted(points, values, noise, origin=normal(DIMS))
    torch.testing.assert_close(posterior_mean(gp, at), mean + std * near @ alpha)
    torch.testing.assert_close(mean_gradient(gp, at), std * jacobian.T @ alpha)
    torch.testing.assert_close(gradient_variance(gp, at[None])[0], DIMS - known.trace())


def test_the_mean_gradient_is_the_gradient_of_the_posterior_mean():
    gp = fitted(box(30, 1.0), normal(30), noise=1e-3)
    at = box(1, 1.0)[0]
    found = differences(lambda x: posterior_mean(gp, x), at, 1e-5)
    torch.testing.assert_close(mean_gradient(gp, at), found, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("count", "most"), [(50, 0.01), (200, 0.001)])
def test_on_a_true_quadratic_the_relative_error_of_the_gradient_falls_with_the_points(count, most):
    errors = []
    for _ in range(5):
        function, points = Quadratic(), box(count, 0.1)
        gp = fitted(points, function(points), noise=1e-9)
        exact = function.gradient(gp.origin)
        errors.append(float((mean_gradient(gp, gp.origin) - exact).norm() / exact.norm()))
    assert np.median(errors) < most


def test_without_data_the_gradient_is_zero_and_its_variance_is_the_priors():
    silent = torch.full((6,), torch.nan, dtype=torch.float64)
    gp = fit(box(6, 1.0), silent, origin=normal(DIMS), length_scale=0.5, noise=1e-6)
    assert torch.equal(mean_gradient(gp, normal(DIMS)), torch.zeros(DIMS, dtype=torch.float64))
    assert gradient_variance(gp, normal(3, DIMS)).tolist() == [DIMS / 0.5**2] * 3


def test_repeated_points_do_not_break_the_solution():
    points, function = box(20, 0.1), Quadratic()
    twice = torch.cat([points, points, points[:1].expand(10, -1)])
    gp = fitted(twice, function(twice), noise=1e-6)
    exact = function.gradient(gp.origin)
    assert float((mean_gradient(gp, gp.origin) - exact).norm() / exact.norm()) < 0.1


def test_the_gradient_variance_never_grows_when_points_are_added():
    points, values, places = box(40, 0.5), normal(40), box(7, 0.5)
    variances = torch.stack(
        [
            gradient_variance(fitted(points[:count], values[:count], noise=1e-4), places)
            for count in range(1, 41)
        ]
    )
    assert (variances.diff(dim=0) <= 1e-10).all()
    assert (variances > 0).all()


def test_a_value_that_is_not_finite_is_ignored():
    points, values, at = box(12, 0.5), normal(12), normal(DIMS)
    holed = values.clone()
    holed[3], holed[7] = torch.nan, torch.inf
    rest = [i for i in range(12) if i not in (3, 7)]
    whole, part = fitted(points, holed, 1e-3), fitted(points[rest], values[rest], 1e-3)
    for find in (posterior_mean, mean_gradient):
        torch.testing.assert_close(find(whole, at), find(part, at))
    weights = [
        summarise(shared(40), p, v, noise=1e-3)
        for p, v in ((points, holed), (points[rest], values[rest]))
    ]
    torch.testing.assert_close(weights[0], weights[1])


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_equal_values_have_a_gradient_of_zero(value):
    values = torch.full((9,), value)
    gp = fitted(box(9, 0.5), values, 1e-6)
    assert torch.equal(mean_gradient(gp, normal(DIMS)), torch.zeros(DIMS, dtype=torch.float64))
    assert not summarise(shared(50), box(9, 0.5), values, noise=1e-6).any()


def test_scale_and_offset_of_the_values_only_scale_the_gradient():
    points, values, at = box(15, 0.5), normal(15), normal(DIMS)
    one, other = fitted(points, values, 1e-4), fitted(points, 1e5 * values - 3e7, 1e-4)
    torch.testing.assert_close(
        1e5 * mean_gradient(one, at),
        mean_gradient(other, at),
        rtol=1e-5,
        atol=1e-3,
    )


def test_the_most_uncertain_places_are_those_far_from_known_points():
    points = box(10, 0.01)
    places = torch.cat([box(5, 0.01), 3 + box(2, 0.01), box(5, 0.01)])
    gp = fitted(points, normal(10), 1e-6)
    assert set(most_uncertain(gp, places, 2).tolist()) == {5, 6}
    silent = fitted(points, torch.full((10,), torch.nan), 1e-6)
    assert most_uncertain(silent, places, 3).tolist() == [0, 1, 2]


# --- random features -----------------------------------------------------------------------------


def kernel_error(count):
    """The largest error on 30 points, the median of five draws of the features."""
    points = normal(30, DIMS) / 2
    errors = []
    for seed in range(5):
        phi = embed(shared(count, seed=seed), points)
        errors.append(float((phi @ phi.T - kernel(points, points)).abs().max()))
    return float(np.median(errors))


def test_the_error_of_random_features_decays_like_one_over_the_root_of_their_number():
    few, many = kernel_error(100), kernel_error(10_000)
    assert few < 0.5
    assert many < 0.06
    assert few / many == pytest.approx(10, rel=0.5)  # sqrt(10,000 / 100)


def test_the_feature_gradient_is_the_gradient_of_the_embedding():
    features, weights, at = shared(300), normal(300), normal(DIMS)
    found = differences(lambda x: embed(features, x[None])[0] @ weights, at, 1e-5)
    torch.testing.assert_close(feature_gradient(features, weights, at), found, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("count", [10, 30])
def test_both_systems_have_the_same_solution(count):
    """Fewer features than points, or more: the ridge regression written out."""
    points, values, noise = box(20, 1.0), normal(20), 0.01
    wide = embed(shared(count), points).T
    scaled = (values - values.mean()) / values.std(correction=0)
    system = wide.T @ wide + noise * torch.eye(20, dtype=torch.float64)
    expected = values.std(correction=0) * wide @ torch.linalg.solve(system, scaled)
    found = summarise(shared(count), points, values, noise=noise)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_with_many_features_a_summary_has_the_gradient_of_the_process():
    function, points = Quadratic(), box(60, 0.3)
    values, at = function(points), box(1, 0.1)[0]
    features = shared(10_000)
    weights = summarise(features, points, values, noise=1e-4)
    exact = mean_gradient(fitted(points, values, noise=1e-4), at)
    found = feature_gradient(features, weights, at)
    assert float((found - exact).norm() / exact.norm()) < 0.1


def test_the_features_depend_on_the_seed_alone():
    cpu = torch.device("cpu")
    first = draw_features(7, 3000, 2.0, 1, cpu)
    draw_features.cache_clear()
    again, other = (draw_features(7, 3000, 2.0, seed, cpu) for seed in (1, 2))
    assert torch.equal(first.frequencies, again.frequencies)
    assert torch.equal(first.phases, again.phases)
    assert not torch.equal(first.frequencies, other.frequencies)
    assert float(first.frequencies.std()) == pytest.approx(0.5, rel=0.05)  # 1 / l
    assert 0 <= float(first.phases.min()) < 0.05
    assert float(first.phases.max()) == pytest.approx(2 * np.pi, abs=0.05)


def test_one_client_and_a_stack_agree():
    points, values, at = normal(3, 20, DIMS), normal(3, 20), normal(3, DIMS)
    values[1, 4] = torch.nan

    def evaluate(points, values, at):
        gp = fit(points, values, origin=at, length_scale=1.0, noise=1e-6)
        weights = summarise(shared(30), points, values, noise=1e-6)
        order = most_uncertain(gp, points[:5], 2)
        return mean_gradient(gp, at), weights, points[order]

    stacked = vmap(evaluate)(points, values, at)
    for i in range(3):
        for one, whole in zip(evaluate(points[i], values[i], at[i]), stacked, strict=True):
            torch.testing.assert_close(one, whole[i], rtol=1e-7, atol=1e-7)
