"""The usual layers for k clients at once: grouped convolutions and batched matrix products.

`torch.func.vmap` of a network is correct but slow where arithmetic dominates. Here the graph of an
`nn.Module` is traced once and run on stacked parameters [k, ...]; a model with a layer that has no
stacked form is left to `vmap`. Convolutions take the clients side by side in the channels, channels
last, the layout in which the CPU's grouped kernels are fast.

Shapes: k clients, b examples of a batch, c channels of one client's images, h x w pixels.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsim.core.task import LayerCall
from fedsim.core.trees import Tree
from fedsim.models.dropout import KeyedDropout, keep_mask
from fedsim.models.lora import Multiply
from fedsim.models.transformer import Attention, MeanOfWords, Positions
from fedsim.models.vectorized.graph import trace
from fedsim.models.vectorized.layout import Values, fold, is_shared, unfold


class Context(NamedTuple):
    """What a layer's stacked form needs: its stacked parameters by name, and the steps' keys [k].

    learned: whether one of the parameters is learned.
    """

    path: str
    weights: Mapping[str, Tensor]
    learned: bool
    keys: Tensor
    k: int
    tape: list[LayerCall] | None


Form = Callable[..., Values]
StackedForward = Callable[
    [Tree, Tree, Tensor, Tensor, list[LayerCall] | None], tuple[Tensor, Tensor]
]


def stacked_forward(model: nn.Module) -> StackedForward | None:
    """Make the stacked forward pass of `model`; None if a part of it has no stacked form.

    It is a function (params, shared, x [k, b, ...], keys [k], tape) -> features, outputs, both
    [k, b, ...]; features are the input of the last dense layer, or the outputs without one. params
    are stacked; shared are the frozen parameters that all clients have in common. With a tape,
    layers with parameters record their inputs and outputs on it; gradients then flow to these
    outputs, and not to the parameters.
    """
    steps = trace(model, lambda layer: type(layer) in FORMS and _is_supported(layer), _FUNCTIONS)
    if steps is None:
        return None
    dense = [step.inputs[0] for step in steps if isinstance(step.layer, nn.Linear)]
    features_at = dense[-1] if dense else steps[-1].name

    def forward(
        params: Tree, shared: Tree, x: Tensor, keys: Tensor, tape: list[LayerCall] | None
    ) -> tuple[Tensor, Tensor]:
        k = len(x)
        held = {"": Values(x, folded=False)}
        last = ""
        for step in steps:
            inputs = [held[name] for name in step.inputs]
            if step.layer is None:
                held[step.name] = _function(step.function, inputs, k)
            else:
                weights = _weights(step.weights, params, shared, k)
                learned = any(weight.requires_grad for weight in weights.values())
                if tape is not None:  # its reader needs the outputs' gradients alone
                    weights = {name: weight.detach() for name, weight in weights.items()}
                context = Context(step.path, weights, learned, keys, k, tape)
                held[step.name] = FORMS[type(step.layer)](step.layer, context, *inputs)
            last = step.name
        return unfold(held[features_at], k), unfold(held[last], k)

    return forward


def _is_supported(layer: nn.Module) -> bool:
    """Whether a layer uses only options that its stacked form supports."""
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros"
    if isinstance(layer, nn.Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if isinstance(layer, nn.Embedding):
        options = (layer.padding_idx, layer.max_norm, layer.scale_grad_by_freq, layer.sparse)
        return options == (None, None, False, False)
    return not (isinstance(layer, nn.MaxPool2d) and layer.return_indices)


def _weights(names: Mapping[str, str], params: Tree, shared: Tree, k: int) -> dict[str, Tensor]:
    """A layer's parameters, each [k, ...]. names: its own name of each -> the model's."""
    found = {}
    for part, full in names.items():
        own = params.get(full)
        found[part] = shared[full].expand(k, *shared[full].shape) if own is None else own
    return found


# --- layers --------------------------------------------------------------------------------------


class _Dense(torch.autograd.Function):
    """x [k, b, i], weight [k, o, i], bias [k, o] -> [k, b, o].

    Autograd's own backward of a batched product gives the weights' gradient transposed, which
    makes every later pass over it slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The batched product."""
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        if bias is None:
            return torch.bmm(x, weight.transpose(1, 2))
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradients with respect to x, weight and bias."""
        (grad,) = grads
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            torch.bmm(grad, weight) if needs[0] else None,
            torch.bmm(grad.transpose(1, 2), x) if needs[1] else None,
            grad.sum(dim=1) if ctx.biased and needs[2] else None,
        )


def _linear(layer: nn.Linear, context: Context, values: Values) -> Values:
    x = unfold(values, context.k)
    weight, bias = context.weights["weight"], context.weights.get("bias")
    if is_shared(weight) and (bias is None or is_shared(bias)):  # one product for all clients
        whole = functional.linear(x, weight[0], None if bias is None else bias[0])
        _record(context, layer, x, whole)
        return Values(whole, folded=False)
    flat = x.flatten(1, -2) if x.dim() > 3 else x
    if torch.is_autocast_enabled(x.device.type):  # autocast does not reach into a Function
        kind = torch.get_autocast_dtype(x.device.type)
        flat, weight, bias = flat.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
    out: Tensor = _Dense.apply(flat, weight, bias)  # type: ignore[no-untyped-call]
    _record(context, layer, x, out)
    return Values(out.reshape(*x.shape[:-1], -1) if x.dim() > 3 else out, folded=False)


def _conv2d(layer: nn.Conv2d, context: Context, values: Values) -> Values:
    bias = context.weights.get("bias")
    x = fold(values)
    out = functional.conv2d(
        x,
        context.weights["weight"].flatten(0, 1),
        None if bias is None else bias.flatten(),
        layer.stride,
        layer.padding,
        layer.dilation,
        context.k * layer.groups,
    )
    _record(context, layer, x, out)
    return Values(out, folded=True)


def _record(context: Context, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
    if context.tape is None:
        return
    if context.learned and not outputs.requires_grad:
        outputs.requires_grad_()
    context.tape.append(LayerCall(context.path, layer, inputs, outputs))


def _group_norm(layer: nn.GroupNorm, context: Context, values: Values) -> Values:
    x, groups = fold(values), context.k * layer.num_groups
    if not layer.affine:
        return Values(functional.group_norm(x, groups, eps=layer.eps), folded=True)
    weight, bias = context.weights["weight"].flatten(), context.weights["bias"].flatten()
    out = functional.group_norm(x, groups, weight, bias, layer.eps)
    _record(context, layer, x, out)
    return Values(out, folded=True)


def _layer_norm(layer: nn.LayerNorm, context: Context, values: Values) -> Values:
    x = unfold(values, context.k)
    if context.weights and all(map(is_shared, context.weights.values())):
        whole = {name: weight[0] for name, weight in context.weights.items()}
        normed = functional.layer_norm(x, layer.normalized_shape, **whole, eps=layer.eps)
        return Values(normed, folded=False)
    out = functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    between = (1,) * (x.dim() - 1 - len(layer.normalized_shape))
    for name, weight in context.weights.items():
        own = weight.reshape(context.k, *between, *layer.normalized_shape)
        out = out * own if name == "weight" else out + own
    return Values(out, folded=False)


def _embedding(layer: nn.Embedding, context: Context, values: Values) -> Values:
    tokens, weight = unfold(values, context.k), context.weights["weight"]
    if is_shared(weight):
        return Values(functional.embedding(tokens, weight[0]), folded=False)
    starts = torch.arange(context.k, device=tokens.device) * layer.num_embeddings
    own = tokens + starts.reshape(-1, *(1,) * (tokens.dim() - 1))
    return Values(functional.embedding(own, weight.flatten(0, 1)), folded=False)


def _positions(layer: Positions, context: Context, values: Values) -> Values:
    x = unfold(values, context.k)
    weight = context.weights["weight"][:, : x.shape[-2]]
    return Values(x + weight.reshape(context.k, *(1,) * (x.dim() - 3), *weight.shape[1:]), False)


def _any_axes(layer: nn.Module, context: Context, *values: Values) -> Values:
    """A layer without parameters that takes any number of leading axes."""
    return Values(layer(*(unfold(value, context.k) for value in values)), folded=False)


def _image_layer(layer: nn.Module, context: Context, values: Values) -> Values:
    """A layer without parameters that treats every channel alike."""
    return Values(layer(fold(values)), folded=True)


def _elementwise(layer: nn.Module, context: Context, values: Values) -> Values:
    return Values(layer(values.tensor), values.folded)


def _flatten(layer: nn.Flatten, context: Context, values: Values) -> Values:
    return Values(unfold(values, context.k).flatten(2), folded=False)


def _dropout(layer: KeyedDropout, context: Context, values: Values) -> Values:
    if not layer.training or layer.p == 0:
        return values
    if layer.p == 1:
        return Values(values.tensor * 0, values.folded)
    own = unfold(values, context.k)  # a mask is numbered in this order, whatever the layout
    kept = keep_mask(context.keys, layer.salt, layer.p, own[0].numel()).reshape(own.shape)
    mask = kept.to(own.dtype).div_(1 - layer.p)
    return Values(
        values.tensor * (fold(Values(mask, folded=False)) if values.folded else mask),
        values.folded,
    )


def _function(target: Any, inputs: list[Values], k: int) -> Values:
    """An elementwise function of one value or two."""
    if len({value.folded for value in inputs}) == 1:
        return Values(target(*(value.tensor for value in inputs)), inputs[0].folded)
    return Values(target(*(unfold(value, k) for value in inputs)), folded=False)


_SMOOTH = (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU)
FORMS: dict[type[nn.Module], Form] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Flatten: _flatten,
    KeyedDropout: _dropout,
    nn.Embedding: _embedding,
    Positions: _positions,
    **dict.fromkeys((Attention, MeanOfWords), _any_axes),
    **dict.fromkeys((nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d), _image_layer),
    **dict.fromkeys((*_SMOOTH, nn.ReLU, nn.LeakyReLU, nn.Identity, Multiply), _elementwise),
}
"""The stacked form of each layer that has one."""

_FUNCTIONS: dict[Any, int] = {
    functional.relu: 1,
    functional.gelu: 1,
    functional.silu: 1,
    functional.elu: 1,
    torch.relu: 1,
    torch.tanh: 1,
    torch.sigmoid: 1,
    operator.add: 2,
    operator.sub: 2,
    operator.mul: 2,
    torch.add: 2,
    torch.mul: 2,
}
"""Elementwise functions, and how many values each takes."""
