"""Gaussian processes as stand-ins for a function that can only be asked for values.

Source
    Shu, Lin, Dai, Low. "Federated Zeroth-Order Optimization using Trajectory-Informed Surrogate
    Gradients". arXiv:2308.04077; Rahimi, Recht (2007) for the random features.

Box (k(x, x') = exp(-||x - x'||^2 / (2 l^2)), A = K + noise I, y the standardised values)
    slope     grad mu(x) = sum_j alpha_j (-(x - x_j) / l^2) k(x, x_j),     alpha = A^-1 y
    doubt     tr d^2(x)  = d / l^2 - tr(J' A^-1 J),     row j of J: -(x - x_j) / l^2 k(x, x_j)
    embed     phi(x)_m   = sqrt(2 / M) cos(v_m' x + b_m),     v_m ~ N(0, I / l^2), b_m ~ U[0, 2 pi)
    summarise w          = Phi (Phi' Phi + noise I)^-1 y,     grad w(x) = (grad phi(x))' w

Values are standardised, and slopes and summaries scaled back, so that `noise` is a share of their
variance. A value that is not finite is no value: its point counts for nothing. All that is solved
is solved in float64, because points of one trajectory lie close together.

Shapes: n points, d coordinates, c places, M features. One client; `vmap` makes it k.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core.rng import normals, uniforms


class Standardised(NamedTuple):
    """What was heard. values: [n], mean 0 and variance 1, 0 where unknown; known: [n], 0. or 1."""

    values: Tensor
    known: Tensor
    mean: Tensor
    scale: Tensor


class Fit(NamedTuple):
    """A Gaussian process that has seen some points; float64.

    points: [n, d], as seen from `origin` [d].   products: theirs with each other, [n, n].
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
    """Random Fourier features, the same for everybody. frequencies: [M, d]; phases: [M]."""

    frequencies: Tensor
    phases: Tensor


def standardise(values: Tensor) -> Standardised:
    """Values [n] as float64, less their mean and over their deviation; equal ones become 0.

    Unknown are those that are not finite.
    """
    known = values.isfinite()
    wide = torch.where(known, values, 0).to(torch.float64)
    share = known.to(torch.float64) / known.sum().clamp(min=1)
    # Seen from the largest of them, equal values are exactly 0, and so is what follows.
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
    """The process that has seen `values` [n] at `points` [n, d].

    Args:
        points: where the function was asked.
        values: what it said; not finite where it said nothing.
        origin: [d], a place near which the process will be asked; distances are taken from there.
        length_scale: l.
        noise: variance of the values' noise, as a share of their variance, > 0.

    Guarantees:
        Points that are twice there do not break the solution.
    """
    heard = standardise(values)
    seen = (points.to(torch.float64) - origin.to(torch.float64)) * heard.known.unsqueeze(-1)
    both = heard.known.unsqueeze(-1) * heard.known
    products = seen @ seen.T
    own = products.diagonal(dim1=-2, dim2=-1)
    matrix = _kernel(own.unsqueeze(-1) + own - 2 * products, length_scale) * both
    matrix = matrix + torch.diag_embed(1 + heard.known * (noise - 1))  # unknown ones alone
    factor, _ = torch.linalg.cholesky_ex(matrix)
    identity = torch.eye(len(heard.known), dtype=matrix.dtype, device=matrix.device)
    inverse = torch.cholesky_solve(identity, factor) * both
    return Fit(
        origin=origin.to(torch.float64),
        points=seen,
        products=products,
        weights=heard.scale * (inverse @ heard.values),
        inverse=inverse,
        mean=heard.mean,
        length_scale=torch.full((), length_scale, dtype=matrix.dtype, device=matrix.device),
    )


def level(seen: Fit, at: Tensor) -> Tensor:
    """The posterior mean mu at one place [d]; []."""
    place = (at - seen.origin).unsqueeze(0)
    return seen.mean + (_seen_from(seen, place)[0] @ seen.weights).squeeze(0)


def slope(seen: Fit, at: Tensor) -> Tensor:
    """The gradient of the posterior mean at one place [d]; [d], 0 where nothing was seen.

    Guarantees:
        It is the gradient of `level`.
    """
    place = at - seen.origin
    pull = seen.weights * _seen_from(seen, place.unsqueeze(0))[0].squeeze(0)
    return (pull @ seen.points - pull.sum() * place) / seen.length_scale**2


def doubt(seen: Fit, at: Tensor) -> Tensor:
    """The posterior variance of the gradient, summed over its coordinates, at places [c, d]; [c].

    Guarantees:
        Without points it is d / l^2.
        It never grows when points are added.
    """
    place = at - seen.origin
    near, across = _seen_from(seen, place)
    # (x - x_j)'(x - x_k) = x'x - x'x_j - x'x_k + x_j'x_k, each summed against A^-1
    half = near @ seen.inverse
    known = ((place.square().sum(-1, keepdim=True) - 2 * across) * half * near).sum(-1)
    known = known + ((near @ (seen.inverse * seen.products)) * near).sum(-1)
    return at.shape[-1] / seen.length_scale**2 - known / seen.length_scale**4


def most_doubtful(seen: Fit, places: Tensor, count: int) -> Tensor:
    """The numbers of the `count` places [c, d] of which least is known, [count].

    Sorted stably: where all are alike, one client and a stack take the same.
    """
    return torch.argsort(doubt(seen, places), descending=True, stable=True)[:count]


@lru_cache(maxsize=4)
def features(
    dims: int, count: int, length_scale: float, seed: int, device: torch.device
) -> Features:
    """The features that everybody derives from one seed, float32; kept, since they are many."""
    keys = torch.tensor([2 * seed, 2 * seed + 1], dtype=torch.int64, device=device)
    frequencies = normals(keys[0], count * dims).reshape(count, dims) / length_scale
    return Features(frequencies, uniforms(keys[1], count) * (2 * math.pi))


def embed(shared: Features, points: Tensor) -> Tensor:
    """The features of points [n, d]; [n, M]. Their products approximate the kernel."""
    angles = points @ shared.frequencies.T + shared.phases
    return math.sqrt(2 / len(shared.phases)) * angles.cos()


def summarise(shared: Features, points: Tensor, values: Tensor, *, noise: float) -> Tensor:
    """What was seen as the weights of the features, [M], float64: the mean of a ridge regression.

    The smaller of the two systems is solved; both have the same solution.
    """
    heard = standardise(values)
    wide = embed(shared, points.to(shared.phases.dtype)).to(torch.float64)
    wide = wide * heard.known.unsqueeze(-1)  # [n, M]
    n, count = wide.shape
    if count < n:
        return heard.scale * _solve(wide.T @ wide, wide.T @ heard.values, noise)
    return heard.scale * (wide.T @ _solve(wide @ wide.T, heard.values, noise))


def embedded_slope(shared: Features, weights: Tensor, at: Tensor) -> Tensor:
    """The gradient at one place [d] of the function that `weights` [M] make of the features; [d].

    Guarantees:
        It is the gradient of `embed(at) @ weights`.
    """
    angles = shared.frequencies @ at.to(shared.phases.dtype) + shared.phases
    pull = weights.to(angles.dtype) * angles.sin()
    return -math.sqrt(2 / len(shared.phases)) * (pull @ shared.frequencies)


def _kernel(squares: Tensor, length_scale: Tensor | float) -> Tensor:
    """K of squared distances, which rounding may have made negative."""
    return torch.exp(squares.clamp(min=0) / (-2 * length_scale**2))


def _seen_from(seen: Fit, place: Tensor) -> tuple[Tensor, Tensor]:
    """K of places [c, d], as seen from the origin, with the points, and their products; [c, n]."""
    own, theirs = place.square().sum(-1, keepdim=True), seen.products.diagonal(dim1=-2, dim2=-1)
    across = place @ seen.points.T
    return _kernel(own + theirs - 2 * across, seen.length_scale), across


def _solve(matrix: Tensor, right: Tensor, noise: float) -> Tensor:
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, _ = torch.linalg.cholesky_ex(matrix + noise * identity)
    return torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
