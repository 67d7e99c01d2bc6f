"""The oracle of a run without example-level privacy: gradients of a batch's mean loss.

A strategy asks for one client. Under `vmap` the question of k clients arrives here whole, and is
answered by the task's stacked layers, in one pass of ordinary autograd.

Shapes: k clients of a stack, b examples of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value

from fedsim.tasks import Task
from fedsim.types import Batch, Tree


@dataclass(frozen=True)
class PlainOracle:
    """Serves one step and notes what it saw.

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
            loss, *parts = _Stacked.apply(  # type: ignore[no-untyped-call]
                self.task, list(params), *batch, *params.values()
            )
            gradient = dict(zip(params, parts, strict=True))
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


def _stacked_gradients(
    task: Task, names: Sequence[str], batch: Batch, points: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The mean losses [k] and the gradients [k, ...] of k clients, each at its own point."""
    assert task.stacked_loss is not None
    with torch.enable_grad():
        leaves = [point.detach().requires_grad_() for point in points]
        losses = task.stacked_loss(dict(zip(names, leaves, strict=True)), batch)
        means = (losses * _weights(batch)).sum(dim=1)
        parts = torch.autograd.grad(means.sum(), leaves, materialize_grads=True)
    return (means.detach(), *parts)


class _Stacked(torch.autograd.Function):
    """The seam through which vmap hands over the whole stack."""

    @staticmethod
    def forward(task: Task, names: list[str], *tensors: Tensor) -> tuple[Tensor, ...]:
        """Outside of vmap, a stack of one."""
        whole = [tensor.unsqueeze(0) for tensor in tensors]
        found = _stacked_gradients(task, names, Batch(*whole[:4]), whole[4:])
        return tuple(part[0] for part in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: a gradient is not differentiated again."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, task: Task, names: list[str], *tensors: Tensor) -> Any:
        """All clients at once."""
        k = info.batch_size
        whole = [
            tensor.expand(k, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims[2:], strict=True)
        ]
        found = _stacked_gradients(task, names, Batch(*whole[:4]), whole[4:])
        return found, (0,) * len(found)
