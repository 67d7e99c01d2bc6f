"""Oracles: what answers a strategy's questions about the data.

A strategy asks for one client. Under `vmap` the question of k clients arrives here whole, and is
answered by the task's stacked layers, in one pass of ordinary autograd.

Shapes: k clients of a stack, b examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.func import grad_and_value

from fedsim import trees
from fedsim.examples import clipped_sums
from fedsim.rng import mix, normals
from fedsim.tasks import Task
from fedsim.types import Batch, Penalty, Tree
from fedsim.validate import PrivacyError


@dataclass(frozen=True)
class PlainOracle:
    """The oracle of a run without example-level privacy. Serves one step; notes what it saw.

    losses: the mean loss at each point asked, in order; the first is what is reported. Penalties
        are in it.
    """

    task: Task
    losses: list[Tensor] = field(default_factory=list)

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """The gradient of the batch's mean loss at `params`."""
        asked = Asked(params, batch, penalty.given if penalty else (), held or {})
        gradient: Tree
        if self.task.stacked_loss is None and _vmapped():

            def loss_at(point: Tree) -> Tensor:
                return mean_loss(self.task, asked.held | point, batch, penalty)

            gradient, loss = grad_and_value(loss_at)(params)
        elif _vmapped():
            gradient, loss = _together(partial(_stacked_gradients, self.task, penalty), asked)
        else:
            gradient, loss = _one_gradient(self.task, penalty, asked)
        self.losses.append(loss.detach())
        return gradient

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """The batch's mean loss at `params`."""
        loss = mean_loss(self.task, params, batch)
        self.losses.append(loss.detach())
        return loss

    def features(self, params: Tree, batch: Batch) -> Tensor:
        """What the model's last dense layer sees of the batch, in evaluation mode."""
        return self.task.features(params, batch.x).detach()


class Asked(NamedTuple):
    """One question, of one client or [k, ...]. given: the penalty's own tensors."""

    params: Tree
    batch: Batch
    given: tuple[Tensor, ...]
    held: Tree


def mean_loss(task: Task, params: Tree, batch: Batch, penalty: Penalty | None = None) -> Tensor:
    """The mean loss over the rows of the batch that are not padding, []."""
    return (task.loss(params, batch, penalty) * _weights(batch)).sum()


def _weights(batch: Batch) -> Tensor:
    """What each row counts in the mean of its own batch, [..., b]."""
    return batch.mask / batch.mask.sum(dim=-1, keepdim=True).clamp(min=1)


def _one_gradient(task: Task, penalty: Penalty | None, asked: Asked) -> tuple[Tree, Tensor]:
    """The gradient and the mean loss of one client."""
    if task.stacked_loss is not None:  # a stack of one: the same kernels as in a larger stack
        return _alone(partial(_stacked_gradients, task, penalty), asked)
    with torch.enable_grad():
        point = {name: value.detach().requires_grad_() for name, value in asked.params.items()}
        loss = mean_loss(task, asked.held | point, asked.batch, penalty)
        parts = torch.autograd.grad(loss, list(point.values()), materialize_grads=True)
    return dict(zip(point, parts, strict=True)), loss


def _stacked_gradients(task: Task, penalty: Penalty | None, asked: Asked) -> tuple[Tree, Tensor]:
    """The gradients [k, ...] and the mean losses [k] of k clients, each at its own point."""
    assert task.stacked_loss is not None
    if penalty is not None:
        penalty = penalty._replace(given=asked.given)
    with torch.enable_grad():
        leaves = {name: point.detach().requires_grad_() for name, point in asked.params.items()}
        losses = task.stacked_loss(asked.held | leaves, asked.batch, penalty)
        weights = _weights(asked.batch)
        parts = torch.autograd.grad(losses, list(leaves.values()), weights, materialize_grads=True)
    return dict(zip(leaves, parts, strict=True)), (losses.detach() * weights).sum(dim=1)


@dataclass(frozen=True)
class ClippedOracle:
    """Gradients of which no example's part is longer than `clip_norm`, with Gaussian noise.

    This is the arithmetic of DP-SGD (Abadi et al., 2016, arXiv:1607.00133, algorithm 1) and no
    more: what it guarantees depends on how batches are drawn, and is for a mechanism to say.

    clip_norm: the largest Euclidean norm of an example's gradient.
    noise_std: standard deviation of the noise on each coordinate of the sum.
    divisor: a public number by which the noisy sum is divided, such as the expected batch size.
    """

    task: Task
    clip_norm: float
    noise_std: float
    divisor: float
    losses: list[Tensor] = field(default_factory=list)

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """The clipped sum and its noise, divided; every call draws noise of its own.

        Raises:
            PrivacyError: the penalty couples examples, so that clipping each bounds nothing.
        """
        if penalty is not None and not penalty.separable:
            raise PrivacyError(
                "gradient: penalty must be separable where gradients are clipped for each example; "
                "got one that couples the examples of a batch. Use its per-example form."
            )
        asked = Asked(params, batch, penalty.given if penalty else (), held or {})
        rule = partial(self._sums, len(self.losses), penalty)
        gradient, loss = _together(rule, asked) if _vmapped() else _alone(rule, asked)
        self.losses.append(loss)
        return gradient

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """Refused: a loss is a look at the data that nobody has paid for."""
        raise PrivacyError("value: a loss cannot be had under privacy; ask for gradients.")

    def features(self, params: Tree, batch: Batch) -> Tensor:
        """What the model's last dense layer sees, for a penalty that is clipped with the loss."""
        return self.task.features(params, batch.x).detach()

    def _sums(self, call: int, penalty: Penalty | None, asked: Asked) -> tuple[Tree, Tensor]:
        batch = asked.batch
        if penalty is not None:
            penalty = penalty._replace(given=asked.given)
        found = clipped_sums(
            self.task, asked.params, batch, self.clip_norm, penalty=penalty, held=asked.held
        )
        sizes = [value[0].numel() for value in found.total.values()]
        draws = torch.split(normals(mix(batch.key ^ (_NOISE + call)), sum(sizes)), sizes, dim=-1)
        gradient = {
            name: total.add(noise.reshape(total.shape), alpha=self.noise_std) / self.divisor
            for (name, total), noise in zip(found.total.items(), draws, strict=True)
        }
        return gradient, (found.losses * _weights(batch)).sum(dim=1)


_NOISE = 0x5EED  # what tells a step's noise from its dropout

Rule = Callable[[Asked], tuple[Tree, Tensor]]
"""What k clients ask -> (gradients [k, ...], losses [k])."""


def _alone(rule: Rule, asked: Asked) -> tuple[Tree, Tensor]:
    """A rule for one client: a stack of one."""
    gradients, losses = rule(trees.each(asked, lambda tensor: tensor.unsqueeze(0)))
    return {name: value[0] for name, value in gradients.items()}, losses[0]


def _vmapped() -> bool:
    """Whether the caller is inside of a vmap, and so asks for a whole stack."""
    return functorch.maybe_current_level() is not None


def _together(rule: Rule, asked: Asked) -> tuple[Tree, Tensor]:
    """A rule for the client that the caller sees, done for all clients of the vmap at once.

    What torch.autograd.Function does for a function with a `vmap` of its own, without the rest: a
    tensor of the vmap is unwrapped to its stack, the rule runs outside, and its stacks are wrapped.
    """
    vmapped = retrieve_current_functorch_interpreter()
    level, k = vmapped.level(), vmapped.batch_size()  # type: ignore[attr-defined]

    def stack(tensor: Tensor) -> Tensor:
        whole, dim = functorch._unwrap_batched(tensor, level)
        return whole.expand(k, *whole.shape) if dim is None else whole.movedim(dim, 0)

    whole = trees.each(asked, stack)
    with vmapped.lower():
        gradients, losses = rule(whole)
    own = {name: functorch._add_batch_dim(part, 0, level) for name, part in gradients.items()}
    return own, functorch._add_batch_dim(losses, 0, level)
