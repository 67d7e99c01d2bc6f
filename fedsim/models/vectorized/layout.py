"""Memory layout of k clients' activations between two layers.

Shapes: k clients, b examples of a batch, c channels of one client's images, h x w pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Values(NamedTuple):
    """Activations: [k, b, ...], or folded: images [b, k * c, h, w]."""

    tensor: Tensor
    folded: bool


def fold(values: Values) -> Tensor:
    """[k, b, c, h, w] -> [b, k * c, h, w], channels last; other shapes are concatenated too."""
    if values.folded:
        return values.tensor
    side_by_side = values.tensor.transpose(0, 1)
    if side_by_side.dim() != 5:
        return side_by_side.flatten(1, 2)
    last = side_by_side.permute(0, 3, 4, 1, 2).contiguous()  # one copy, made in its final order
    return last.flatten(3, 4).permute(0, 3, 1, 2)


def unfold(values: Values, k: int) -> Tensor:
    """[b, k * c, h, w] -> [k, b, c, h, w]."""
    if not values.folded:
        return values.tensor
    folded: Tensor = _ChannelsLast.apply(values.tensor)  # type: ignore[no-untyped-call]
    b, _, *pixels = folded.shape
    return folded.reshape(b, k, -1, *pixels).transpose(0, 1)


def is_shared(weight: Tensor) -> bool:
    """Whether a stacked parameter is one tensor, expanded k times, and frozen.

    Then k clients' products with it are one product. (A learned one has a gradient per client.)
    """
    return not weight.requires_grad and (len(weight) == 1 or weight.stride(0) == 0)


class _ChannelsLast(torch.autograd.Function):
    """The identity, whose backward pass puts the gradient into channels-last layout.

    Otherwise the backward pass of pooling would, on images four times the size.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The same tensor."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The same gradient, channels last if it is one of images."""
        (grad,) = grads
        return grad.contiguous(memory_format=torch.channels_last) if grad.dim() == 4 else grad
