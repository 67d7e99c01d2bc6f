"""Per-example gradients of k clients at once: each clipped, then summed over a client's batch.

A dense layer's gradient for one example is an outer product, so its norm is the product of two
norms, and a clipped sum is one matrix product: nothing of the size of parameters x examples is
made. Convolutions have small weights and many positions; theirs are made, by a matrix product.

Source: Goodfellow (2015), arXiv:1510.01799, for dense layers; Rochette et al. (2019),
arXiv:1912.06015, for convolutions.

Shapes: k clients of a stack, b examples of a batch, o outputs, i inputs, p positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.nn import functional

from fedsim.core.batch import Batch, Penalty
from fedsim.core.task import LayerCall, Task
from fedsim.core.trees import Tree

Factors = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""A clipping rule: squared norms of each layer's part of a gradient, by layer -> the factor of each
part, by layer. Both [k, b]."""


class Sums(NamedTuple):
    """Sums over a batch of its examples' gradients.

    totals: one tree [k, ...] for each clipping rule. squares: the squared norm of each layer's part
    before clipping [k, b], by layer. losses: [k, b].
    """

    totals: tuple[Tree, ...]
    squares: dict[str, Tensor]
    losses: Tensor

    def norms(self) -> Tensor:
        """The gradients' norms before clipping, [k, b]."""
        return total_of(self.squares).sqrt()


def total_of(squares: dict[str, Tensor]) -> Tensor:
    """The squared norms of whole gradients, [k, b]."""
    return torch.stack(list(squares.values())).sum(dim=0)


class Part(NamedTuple):
    """One layer's per-example gradients: their squared norms [k, b], and their weighted sums.

    summed: weights [k, b] -> parameter's own name -> [k, ...].
    """

    squares: Tensor
    summed: Callable[[Tensor], Tree]


def example_sums(
    task: Task,
    params: Tree,
    batch: Batch,
    *rules: Factors,
    penalty: Penalty | None = None,
    held: Tree | None = None,
) -> Sums:
    """The sum over each batch of the per-example gradients, clipped by each of the rules.

    Args:
        task: whose loss.
        params: stacked parameters [k, ...].
        batch: of k clients; padded rows contribute nothing.
        rules: how gradients are scaled; several rules cost little more than one.
        penalty: added to each example's loss; its tensors are [k, b, ...].
        held: parameters [k, ...] that the model needs; they are not learned and not clipped.

    Guarantees:
        An example whose gradient is not finite contributes nothing.
    """
    held = held or {}
    fast = _by_layers(task, params, batch, penalty, held)
    parts, losses = fast or _by_vmap(task, params, batch, penalty, held)
    squares = {path: part.squares for path, part in parts.items()}
    real = batch.mask * total_of(squares).isfinite()
    totals = []
    for rule in rules:
        factors = rule(squares)
        total = {
            f"{path}.{name}" if path else name: value
            for path, part in parts.items()
            for name, value in part.summed(torch.where(real > 0, factors[path], 0)).items()
        }
        totals.append({name: total[name] for name in params})
    return Sums(tuple(totals), squares, losses)


def _by_layers(
    task: Task, params: Tree, batch: Batch, penalty: Penalty | None, held: Tree
) -> tuple[dict[str, Part], Tensor] | None:
    """Every layer's part, and the losses; None if a layer has no rule here."""
    if task.stacked_loss is None:
        return None
    tape: list[LayerCall] = []
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        losses = task.stacked_loss(held | leaves, batch, penalty, tape)
        tape = [call for call in tape if _names(call) & params.keys()]
        if sorted(name for call in tape for name in _names(call)) != sorted(params):
            return None  # a layer is not on the tape, is used twice, or is learned in part
        grads = torch.autograd.grad(losses.sum(), [call.outputs for call in tape])
    k = len(batch.x)
    parts: dict[str, Part] = {}
    for call, grad in zip(tape, grads, strict=True):
        rule = _RULES.get(type(call.layer))
        if rule is None:
            return None
        part = rule(call, grad.detach(), k)
        if part is None:
            return None
        parts[call.path] = part
    return parts, losses.detach()


def _names(call: LayerCall) -> set[str]:
    """The model's names of a layer's parameters."""
    own = (name for name, _ in call.layer.named_parameters(recurse=False))
    return {f"{call.path}.{name}" if call.path else name for name in own}


def _dense(call: LayerCall, grad: Tensor, k: int) -> Part:
    x, biased = call.inputs.detach(), getattr(call.layer, "bias", None) is not None
    if x.dim() == 3:  # [k, b, i]
        squares = grad.square().sum(-1) * (x.square().sum(-1) + biased)

        def summed(weights: Tensor) -> Tree:
            none = (weights == 0).unsqueeze(-1)  # even where it is not finite
            scaled = (grad * weights.unsqueeze(-1)).masked_fill_(none, 0)
            total = {"weight": torch.bmm(scaled.transpose(1, 2), x.masked_fill(none, 0))}
            return total | ({"bias": scaled.sum(dim=1)} if biased else {})

        return Part(squares, summed)
    inputs = x.flatten(2, -2)  # [k, b, p, i]
    outputs = grad.reshape(*inputs.shape[:3], -1)
    weight = outputs.transpose(2, 3) @ inputs
    return _part({"weight": weight} | ({"bias": outputs.sum(dim=2)} if biased else {}))


def _conv2d(call: LayerCall, grad: Tensor, k: int) -> Part | None:
    layer = call.layer
    assert isinstance(layer, nn.Conv2d)
    if layer.groups != 1 or isinstance(layer.padding, str):
        return None
    outputs = _apart(grad, k)  # [k, b, o, h, w]
    strips = _strips(_apart(call.inputs.detach(), k), layer, outputs.shape[-1])
    down, apart = layer.stride[0], layer.dilation[0]
    reach = down * (outputs.shape[3] - 1) + 1
    flat = outputs.flatten(3)  # [k, b, o, p]
    by_row = []
    for first in range(0, apart * layer.kernel_size[0], apart):  # the inputs of a row of the kernel
        seen = strips[:, :, :, :, first : first + reach : down].flatten(4).flatten(2, 3)
        by_row.append((flat @ seen.transpose(2, 3)).reshape(*flat.shape[:3], *strips.shape[2:4]))
    weight = torch.stack(by_row, dim=4)  # [k, b, o, c, kernel's height, width]
    return _part({"weight": weight} | ({} if layer.bias is None else {"bias": flat.sum(-1)}))


def _apart(folded: Tensor, k: int) -> Tensor:
    """Clients' images side by side [b, k * c, h, w] -> [k, b, c, h, w], in that order in memory."""
    b, _, *pixels = folded.shape
    return folded.reshape(b, k, -1, *pixels).transpose(0, 1).contiguous()


def _strips(images: Tensor, layer: nn.Conv2d, across: int) -> Tensor:
    """Images with their rows cut into the inputs of each position of a row of the output.

    The rows of a window are views of these, not copies. (`functional.unfold`
    copies every pixel for every place of the kernel, and is slow where channels come last.)

    Returns:
        [k, b, c, kernel's width, rows, across].
    """
    high, wide = (int(pad) for pad in layer.padding)
    if high or wide:
        images = functional.pad(images, (wide, wide, high, high))
    *outer, row, right = images.stride()
    sizes = (*images.shape[:3], layer.kernel_size[1], images.shape[3], across)
    steps = (*outer, right * layer.dilation[1], row, right * layer.stride[1])
    return images.as_strided(sizes, steps).contiguous()


def _part(own: Tree) -> Part:
    """A layer's part from its parameters' per-example gradients [k, b, ...]."""
    rows = [gradient.unsqueeze(-1).flatten(2) for gradient in own.values()]  # of numbers, too
    squares = [row.square().sum(-1) for row in rows]

    def summed(weights: Tensor) -> Tree:
        return {name: _weighted(weights, gradient) for name, gradient in own.items()}

    return Part(torch.stack(squares).sum(dim=0), summed)


def _weighted(weights: Tensor, each: Tensor) -> Tensor:
    """Sums over a batch: weights [k, b], each [k, b, ...] -> [k, ...].

    A weight of 0 contributes nothing, even where the gradient is not finite.
    """
    kept = each.unsqueeze(-1).flatten(2).masked_fill((weights == 0).unsqueeze(-1), 0)
    return torch.bmm(weights.unsqueeze(1), kept).reshape(len(each), *each.shape[2:])


def _group_norm(call: LayerCall, grad: Tensor, k: int) -> Part:
    layer = call.layer
    assert isinstance(layer, nn.GroupNorm)
    b = len(grad)
    plain = functional.group_norm(call.inputs.detach(), k * layer.num_groups, eps=layer.eps)
    own = (t.reshape(b, k, layer.num_channels, -1).transpose(0, 1) for t in (grad * plain, grad))
    weight, bias = (t.sum(-1) for t in own)  # [k, b, channels]
    return _part({"weight": weight, "bias": bias})


_RULES: dict[type[nn.Module], Callable[[LayerCall, Tensor, int], Part | None]] = {
    nn.Linear: _dense,
    nn.Conv2d: _conv2d,
    nn.GroupNorm: _group_norm,
}


def _by_vmap(
    task: Task, params: Tree, batch: Batch, penalty: Penalty | None, held: Tree
) -> tuple[dict[str, Part], Tensor]:
    """As `_by_layers`, for any model, with every example's gradient in memory."""

    def one(own: Tree, rest: Tree, example: tuple[Tensor, ...], key: Tensor) -> tuple[Tree, Tensor]:
        x, y, *given = (part.unsqueeze(0) for part in example)
        whole = torch.ones(1, device=x.device)
        extra = None if penalty is None else penalty._replace(given=tuple(given))

        def loss(point: Tree) -> Tensor:
            return task.loss(rest | point, Batch(x, y, whole, key), extra)[0]

        gradient, value = grad_and_value(loss)(own)
        return gradient, value

    per_client = vmap(one, in_dims=(None, None, 0, None))
    given = penalty.given if penalty else ()
    each, losses = vmap(per_client)(params, held, (batch.x, batch.y, *given), batch.key)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, gradient in each.items():
        path, _, own_name = name.rpartition(".")
        layers.setdefault(path, {})[own_name] = gradient
    return {path: _part(own) for path, own in layers.items()}, losses
