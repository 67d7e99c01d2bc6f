"""Gaussian-process surrogates of a black-box function: gradients estimated from its values.

Source
    Shu, Lin, Dai, Low. "Federated Zeroth-Order Optimization using Trajectory-Informed Surrogate
    Gradients". arXiv:2308.04077; Rahimi, Recht (2007) for the random features.

Box (k(x, x') = exp(-||x - x'||^2 / (2 l^2)), A = K + noise I, y the standardised values)
    mean_gradient      grad mu(x) = sum_j alpha_j (-(x - x_j) / l^2) k(x, x_j),  alpha = A^-1 y
    gradient_variance  tr d^2(x)  = d / l^2 - tr(J' A^-1 J),  row j of J: -(x - x_j) / l^2 k(x, x_j)
    draw_features      v_m ~ N(0, I / l^2),  b_m ~ U[0, 2 pi)
    embed              phi(x)_m   = sqrt(2 / M) cos(v_m' x + b_m)
    summarise          w          = Phi (Phi' Phi + noise I)^-1 y
    feature_gradient   grad w(x)  = (grad phi(x))' w

Values are standardised, and gradients and summaries scaled back, so that `noise` is a share of
their variance. A point whose value is not finite is ignored. Linear systems are solved in float64,
because the points of one trajectory lie close together.

Shapes: n points, d coordinates, c candidates, M features; of one client, k by `vmap`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core.rng import normals, uniforms


class Standardised(NamedTuple):
    """values: [n], mean 0 and variance 1, 0 if unknown; known: [n], 0. or 1.; mean, scale: []."""

    values: Tensor
    known: Tensor
    mean: Tensor
    scale: Tensor


class Fit(NamedTuple):
    """A Gaussian process conditioned on some points; float64.

    points: [n, d], relative to `origin` [d].   products: their inner products, [n, n].
    weights: alpha times the values' scale, [n].
    inverse: A^-1 [n, n], 0 in the rows and columns of unknown points.
    mean, length_scale: [].
    """

    origin: Tensor
    points: Tensor
    products: Tensor
    weights: Tensor
    inverse: Tensor
    mean: Tensor
    length_scale: Tensor


class Features(NamedTuple):
    """Random Fourier features, shared by all clients. frequencies: [M, d]; phases: [M]."""

    frequencies: Tensor
    phases: Tensor


def standardise(values: Tensor) -> Standardised:
    """Subtract the mean of values [n] and divide by their standard deviation; equal ones become 0.

    Values that are not finite are unknown, and left out of both.
    """
    known = values.isfinite()
    wide = torch.where(known, values, 0).to(torch.float64)
    share = known.to(torch.float64) / known.sum().clamp(min=1)
    # Relative to the largest of them, equal values are exactly 0, and so is the result.
    top = torch.where(known, wide, -math.inf).amax().nan_to_num(neginf=0.0)
    lower = torch.where(known, wide - top, 0)
    mean = (lower * share).sum()
    centred = torch.where(known, lower - mean, 0)
    scale = (centred.square() * share).sum().sqrt()
    return Standardised(
        centred / torch.where(scale > 0, scale, 1), known.to(torch.float64), top + mean, scale
    )


def fit(
    points: Tensor, values: Tensor, *, origin: Tensor, length_scale: float, noise: float
) -> Fit:
    """Condition the process on `values` [n] at `points` [n, d].

    Args:
        points: where the function was queried.
        values: its values; not finite where there was no answer.
        origin: [d], a point near which the process will be evaluated; distances are relative to it.
        length_scale: l.
        noise: variance of the values' noise, as a share of their variance, > 0.

    Guarantees:
        Repeated points do not break the solution.
    """
    standard = standardise(values)
    offsets = (points.to(torch.float64) - origin.to(torch.float64)) * standard.known.unsqueeze(-1)
    both = standard.known.unsqueeze(-1) * standard.known
    products = offsets @ offsets.T
    own = products.diagonal(dim1=-2, dim2=-1)
    matrix = _kernel(own.unsqueeze(-1) + own - 2 * products, length_scale) * both
    matrix = matrix + torch.diag_embed(1 + standard.known * (noise - 1))  # unknown ones alone
    factor, _ = torch.linalg.cholesky_ex(matrix)
    identity = torch.eye(len(standard.known), dtype=matrix.dtype, device=matrix.device)
    inverse = torch.cholesky_solve(identity, factor) * both
    return Fit(
        origin=origin.to(torch.float64),
        points=offsets,
        products=products,
        weights=standard.scale * (inverse @ standard.values),
        inverse=inverse,
        mean=standard.mean,
        length_scale=torch.full((), length_scale, dtype=matrix.dtype, device=matrix.device),
    )


def posterior_mean(gp: Fit, at: Tensor) -> Tensor:
    """The posterior mean mu at one point [d]; []."""
    offset = (at - gp.origin).unsqueeze(0)
    return gp.mean + (_kernel_with(gp, offset)[0] @ gp.weights).squeeze(0)


def mean_gradient(gp: Fit, at: Tensor) -> Tensor:
    """The gradient of the posterior mean at one point [d]; [d], 0 without known points.

    Guarantees:
        It is the gradient of `posterior_mean`.
    """
    offset = at - gp.origin
    pull = gp.weights * _kernel_with(gp, offset.unsqueeze(0))[0].squeeze(0)
    return (pull @ gp.points - pull.sum() * offset) / gp.length_scale**2


def gradient_variance(gp: Fit, at: Tensor) -> Tensor:
    """The posterior variance of the gradient, summed over its coordinates, at [c, d]; [c].

    Guarantees:
        Without points it is d / l^2.
        It never grows when points are added.
    """
    offset = at - gp.origin
    near, across = _kernel_with(gp, offset)
    # (x - x_j)'(x - x_k) = x'x - x'x_j - x'x_k + x_j'x_k, each summed against A^-1
    half = near @ gp.inverse
    known = ((offset.square().sum(-1, keepdim=True) - 2 * across) * half * near).sum(-1)
    known = known + ((near @ (gp.inverse * gp.products)) * near).sum(-1)
    return at.shape[-1] / gp.length_scale**2 - known / gp.length_scale**4


def most_uncertain(gp: Fit, candidates: Tensor, count: int) -> Tensor:
    """The indices of the `count` candidates [c, d] of largest gradient variance, [count].

    The sort is stable: among equal variances, one client and a stack of clients choose the same.
    """
    return torch.argsort(gradient_variance(gp, candidates), descending=True, stable=True)[:count]


@lru_cache(maxsize=4)
def draw_features(
    dims: int, count: int, length_scale: float, seed: int, device: torch.device
) -> Features:
    """Draw the features that all clients derive from one seed, float32; cached: there are many."""
    keys = torch.tensor([2 * seed, 2 * seed + 1], dtype=torch.int64, device=device)
    frequencies = normals(keys[0], count * dims).reshape(count, dims) / length_scale
    return Features(frequencies, uniforms(keys[1], count) * (2 * math.pi))


def embed(shared: Features, points: Tensor) -> Tensor:
    """The features of points [n, d]; [n, M]. Their products approximate the kernel."""
    angles = points @ shared.frequencies.T + shared.phases
    return math.sqrt(2 / len(shared.phases)) * angles.cos()


def summarise(shared: Features, points: Tensor, values: Tensor, *, noise: float) -> Tensor:
    """Fit the weights of the features to the values, [M], float64: the mean of a ridge regression.

    The smaller of the two systems is solved; both have the same solution.
    """
    standard = standardise(values)
    wide = embed(shared, points.to(shared.phases.dtype)).to(torch.float64)
    wide = wide * standard.known.unsqueeze(-1)  # [n, M]
    n, count = wide.shape
    if count < n:
        return standard.scale * _solve(wide.T @ wide, wide.T @ standard.values, noise)
    return standard.scale * (wide.T @ _solve(wide @ wide.T, standard.values, noise))


def feature_gradient(shared: Features, weights: Tensor, at: Tensor) -> Tensor:
    """The gradient at one point [d] of the weighted sum of the features, weights [M]; [d].

    Guarantees:
        It is the gradient of `embed(at) @ weights`.
    """
    angles = shared.frequencies @ at.to(shared.phases.dtype) + shared.phases
    pull = weights.to(angles.dtype) * angles.sin()
    return -math.sqrt(2 / len(shared.phases)) * (pull @ shared.frequencies)


def _kernel(squares: Tensor, length_scale: Tensor | float) -> Tensor:
    """K of squared distances, which rounding may have made negative."""
    return torch.exp(squares.clamp(min=0) / (-2 * length_scale**2))


def _kernel_with(gp: Fit, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The kernel, and the inner products, of offsets [c, d] and the points; [c, n]."""
    own, theirs = offsets.square().sum(-1, keepdim=True), gp.products.diagonal(dim1=-2, dim2=-1)
    across = offsets @ gp.points.T
    return _kernel(own + theirs - 2 * across, gp.length_scale), across


def _solve(matrix: Tensor, right: Tensor, noise: float) -> Tensor:
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, _ = torch.linalg.cholesky_ex(matrix + noise * identity)
    return torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
