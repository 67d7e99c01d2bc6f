"""Opacus's way to the clipped sum of a batch's gradients: another road to the same number.

Runs do not take it: a cohort's gradients are those of `fedsim.training.per_example`. It is what
they are held against, and it takes any module outside of a run.

Opacus gives the examples' gradients, or their norms; the clipping is done here, because its own
divides by the norm + 1e-6, turns everything to NaN where one example's gradient is, and with ghost
norms raises ZeroDivisionError for an empty batch.

Source: Yousefpour et al. (2021), "Opacus", arXiv:2109.12298; Li et al. (2022), "Large language
    models can be strong differentially private learners", arXiv:2110.05679 (ghost norms).

Shapes: b examples of a batch.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from torch import Tensor, nn

from fedsim.core.trees import Tree
from fedsim.models.tasks import cross_entropy
from privacy import validate
from privacy.mechanisms.clipping import shortened

Way = Literal["hooks", "ghost"]
"""hooks: every example's gradient in memory, one backward pass. ghost: their norms alone, and a
second backward pass, of losses weighted by min(1, C / ||g||), for the sum."""


def clipped_sum(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    clip_norm: float,
    *,
    way: Way,
    mask: Tensor | None = None,
    loss_of: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Tree:
    """The sum over a batch of g min(1, C / ||g||), g being one example's gradient.

    Args:
        model: any that Opacus accepts; it stays as it was, and is used in training mode.
        x: [b, ...].
        y: [b].
        clip_norm: C, for the norm over all layers together.
        way: how Opacus is to do it.
        mask: [b], 0 for padding, which counts for nothing.
        loss_of: (logits [b, ...], y [b]) -> the loss of each example [b].

    Returns:
        The sums by the names of the trainable parameters.

    Raises:
        PrivacyError: clip_norm is not above 0.

    Guarantees:
        Both ways give what the cohort's runtime gives.
        An example whose gradient is not finite contributes nothing.
        An empty batch gives zeros.
    """
    validate.length("clipped_sum", clip_norm=clip_norm)
    if mask is not None:
        x, y = x[mask > 0], y[mask > 0]
    own = copy.deepcopy(model).train()  # Opacus leaves its notes on modules and parameters
    learned: Tree = {name: value for name, value in own.named_parameters() if value.requires_grad}
    if not len(x):
        return {name: torch.zeros_like(value) for name, value in learned.items()}
    kind: Any = GradSampleModule if way == "hooks" else GradSampleModuleFastGradientClipping
    wrapped = kind(own, loss_reduction="sum")
    losses = loss_of(wrapped(x), y)
    _backward(losses, learned, torch.ones_like(losses))
    each = {} if way == "ghost" else {name: _each(value) for name, value in learned.items()}
    norms = wrapped.get_norm_sample() if way == "ghost" else _norms(each)
    finite = norms.isfinite()
    if not finite.all():  # a weight of 0 would not silence NaN: begin again without them
        return clipped_sum(model, x[finite], y[finite], clip_norm, way=way, loss_of=loss_of)
    weights = shortened(norms, clip_norm)
    if way == "hooks":
        return {name: torch.tensordot(weights, rows, dims=1) for name, rows in each.items()}
    wrapped.disable_hooks()
    return _backward(losses, learned, weights)


def _backward(losses: Tensor, learned: Tree, weights: Tensor) -> Tree:
    """The gradients of the weighted sum of losses; their graph stays, for another pass."""
    with warnings.catch_warnings():  # the hooks fire as they should, though no input is learned
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        sums = torch.autograd.grad(losses, list(learned.values()), weights, retain_graph=True)
    return dict(zip(learned, sums, strict=True))


def _each(value: Any) -> Tensor:
    """The examples' gradients that Opacus left on a parameter, [b, ...]."""
    found: Tensor = value.grad_sample
    return found


def _norms(each: Tree) -> Tensor:
    """The norms over all layers together, [b]."""
    layers = [torch.linalg.vector_norm(rows.flatten(1), dim=1) for rows in each.values()]
    found: Tensor = torch.linalg.vector_norm(torch.stack(layers), dim=0)
    return found
