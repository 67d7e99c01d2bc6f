"""Oracles: what answers a strategy's questions about the data.

A strategy asks for one client. Under `vmap` the question of k clients arrives here whole, and is
answered by the task's stacked layers, in one pass of ordinary autograd.

Shapes: k clients of a stack, b examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value

from fedsim.examples import clipped_sums
from fedsim.rng import mix, normals
from fedsim.tasks import Task
from fedsim.types import Batch, Tree


@dataclass(frozen=True)
class PlainOracle:
    """The oracle of a run without example-level privacy. Serves one step; notes what it saw.

    stacked: whether the caller is vmapped.
    losses: the mean loss at each point asked, in order; the first is what is reported.
    """

    task: Task
    stacked: bool
    losses: list[Tensor] = field(default_factory=list)

    def gradient(self, params: Tree, batch: Batch) -> Tree:
        """The gradient of the batch's mean loss at `params`."""
        gradient: Tree
        if self.task.stacked_loss is None and self.stacked:
            gradient, loss = grad_and_value(lambda p: mean_loss(self.task, p, batch))(params)
        elif self.stacked:
            gradient, loss = _together(partial(_stacked_gradients, self.task), params, batch)
        else:
            gradient, loss = _one_gradient(self.task, params, batch)
        self.losses.append(loss.detach())
        return gradient

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """The batch's mean loss at `params`."""
        loss = mean_loss(self.task, params, batch)
        self.losses.append(loss.detach())
        return loss


def mean_loss(task: Task, params: Tree, batch: Batch) -> Tensor:
    """The mean loss over the rows of the batch that are not padding, []."""
    return (task.loss(params, batch) * _weights(batch)).sum()


def _weights(batch: Batch) -> Tensor:
    """What each row counts in the mean of its own batch, [..., b]."""
    return batch.mask / batch.mask.sum(dim=-1, keepdim=True).clamp(min=1)


def _one_gradient(task: Task, params: Tree, batch: Batch) -> tuple[Tree, Tensor]:
    """The gradient and the mean loss of one client."""
    with torch.enable_grad():
        point = {name: value.detach().requires_grad_() for name, value in params.items()}
        if task.stacked_loss is None:
            loss = mean_loss(task, point, batch)
        else:  # a stack of one: the same kernels as in a larger stack
            stack = {name: value.unsqueeze(0) for name, value in point.items()}
            losses = task.stacked_loss(stack, Batch(*(part.unsqueeze(0) for part in batch)))
            loss = (losses[0] * _weights(batch)).sum()
        parts = torch.autograd.grad(loss, list(point.values()), materialize_grads=True)
    return dict(zip(point, parts, strict=True)), loss


def _stacked_gradients(task: Task, points: Tree, batch: Batch) -> tuple[Tree, Tensor]:
    """The gradients [k, ...] and the mean losses [k] of k clients, each at its own point."""
    assert task.stacked_loss is not None
    with torch.enable_grad():
        leaves = {name: point.detach().requires_grad_() for name, point in points.items()}
        means = (task.stacked_loss(leaves, batch) * _weights(batch)).sum(dim=1)
        parts = torch.autograd.grad(means.sum(), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, parts, strict=True)), means.detach()


@dataclass(frozen=True)
class ClippedOracle:
    """Gradients of which no example's part is longer than `clip_norm`, with Gaussian noise.

    This is the arithmetic of DP-SGD (Abadi et al., 2016, arXiv:1607.00133, algorithm 1) and no
    more: what it guarantees depends on how batches are drawn, and is for a mechanism to say.

    stacked: whether the caller is vmapped.
    clip_norm: the largest Euclidean norm of an example's gradient.
    noise_std: standard deviation of the noise on each coordinate of the sum.
    divisor: a public number by which the noisy sum is divided, such as the expected batch size.
    """

    task: Task
    stacked: bool
    clip_norm: float
    noise_std: float
    divisor: float
    losses: list[Tensor] = field(default_factory=list)

    def gradient(self, params: Tree, batch: Batch) -> Tree:
        """The clipped sum and its noise, divided; every call draws noise of its own."""
        rule = partial(self._sums, len(self.losses))
        if self.stacked:
            gradient, loss = _together(rule, params, batch)
        else:
            gradient, loss = _alone(rule, params, batch)
        self.losses.append(loss)
        return gradient

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """Refused: a loss is a look at the data that nobody has paid for."""
        raise NotImplementedError("ClippedOracle: a loss value cannot be had; ask for gradients.")

    def _sums(self, call: int, points: Tree, batch: Batch) -> tuple[Tree, Tensor]:
        found = clipped_sums(self.task, points, batch, self.clip_norm)
        sizes = [value[0].numel() for value in found.total.values()]
        draws = torch.split(normals(mix(batch.key ^ (_NOISE + call)), sum(sizes)), sizes, dim=-1)
        gradient = {
            name: total.add(noise.reshape(total.shape), alpha=self.noise_std) / self.divisor
            for (name, total), noise in zip(found.total.items(), draws, strict=True)
        }
        return gradient, (found.losses * _weights(batch)).sum(dim=1)


_NOISE = 0x5EED  # what tells a step's noise from its dropout

Rule = Callable[[Tree, Batch], tuple[Tree, Tensor]]
"""(points [k, ...], batch [k, ...]) -> (gradients [k, ...], losses [k])."""


def _alone(rule: Rule, params: Tree, batch: Batch) -> tuple[Tree, Tensor]:
    """A rule for one client: a stack of one."""
    stack = {name: value.unsqueeze(0) for name, value in params.items()}
    gradients, losses = rule(stack, Batch(*(part.unsqueeze(0) for part in batch)))
    return {name: value[0] for name, value in gradients.items()}, losses[0]


def _together(rule: Rule, params: Tree, batch: Batch) -> tuple[Tree, Tensor]:
    """A rule for the client that the caller sees, done for all clients of the vmap at once."""
    loss, *parts = _Stacked.apply(  # type: ignore[no-untyped-call]
        rule, list(params), *batch, *params.values()
    )
    return dict(zip(params, parts, strict=True)), loss


class _Stacked(torch.autograd.Function):
    """The seam through which vmap hands over the whole stack."""

    @staticmethod
    def forward(rule: Rule, names: list[str], *tensors: Tensor) -> tuple[Tensor, ...]:
        """Outside of vmap, a stack of one."""
        gradient, loss = _alone(
            rule, dict(zip(names, tensors[4:], strict=True)), Batch(*tensors[:4])
        )
        return (loss, *gradient.values())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: a gradient is not differentiated again."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, rule: Rule, names: list[str], *tensors: Tensor) -> Any:
        """All clients at once."""
        k = info.batch_size
        whole = [
            tensor.expand(k, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims[2:], strict=True)
        ]
        points = dict(zip(names, whole[4:], strict=True))
        gradients, losses = rule(points, Batch(*whole[:4]))
        return (losses, *gradients.values()), (0,) * (1 + len(names))
