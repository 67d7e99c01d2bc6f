"""LoRA: low-rank adapters s B A of rank r beside frozen dense layers W0.

Source: Hu et al. (2021), "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.

Shapes: q inputs and p outputs of an adapted layer, r the rank; A [r, q], B [p, r].
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedsim.core.errors import InputError, at_least, in_unit_interval, positive
from fedsim.core.trees import Tree

if TYPE_CHECKING:
    from fedsim.core.scenario import Scenario

_A, _B = "lora_a.weight", "lora_b.weight"  # how the names of the two end


class Multiply(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Factor * x, any shape."""
        return x * self.factor


class Adapted(nn.Module):
    """A dense layer with a low-rank adapter, of plain layers: x -> W0 x + b + s B A x.

    A starts Kaiming-uniform (a = sqrt(5)), as in PEFT, and B at zero: no change at first.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        q, p = base.in_features, base.out_features
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.drop: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()
        self.lora_a = nn.Linear(q, rank, bias=False, **like)  # torch's initialisation, as in PEFT
        self.lora_b = nn.Linear(rank, p, bias=False, **like)
        nn.init.zeros_(self.lora_b.weight)
        self.multiply = Multiply(alpha / rank)
        self.base = base  # the last dense layer: features are its input

    def forward(self, x: Tensor) -> Tensor:
        """[..., q] -> [..., p]."""
        low: Tensor = self.multiply(self.lora_b(self.lora_a(self.drop(x))))
        result: Tensor = low + self.base(x)
        return result


def adapt(
    model: nn.Module,
    pattern: str,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    orthonormal: bool = False,
    learn: str | None = None,
) -> nn.Module:
    """Add adapters to dense layers of `model`, in place; freeze everything else.

    Args:
        model: any module.
        pattern: a regular expression found in the names of the layers to adapt, such as
            "query|value". Of what it finds, only plain nn.Linear layers are adapted.
        rank: r, at most the smaller side of each adapted layer.
        alpha: the low-rank term is scaled by s = alpha / r.
        dropout: of the input of A.
        orthonormal: whether to orthonormalise the initial rows of A.
        learn: a regular expression found in the names of parameters that are learned as well, such
            as "^head"; left out, there are none.

    Returns:
        The same module, whose only trainable parameters are `...lora_a.weight`,
        `...lora_b.weight` and those of `learn`.

    Raises:
        InputError: no dense layer has such a name, the rank is larger than a side of one, or a
            number is out of its range.

    Guarantees:
        Before training the model gives the outputs that it gave without adapters.
    """
    at_least("adapt", 1, "Use 8.", rank=rank)
    positive("adapt", "Use the rank, for s = 1.", alpha=alpha)
    in_unit_interval("adapt", "Use 0 or 0.05.", dropout=dropout)
    places = dict(model.named_modules(remove_duplicate=False))  # a layer may be used twice
    dense = {path: layer for path, layer in places.items() if path and type(layer) is nn.Linear}
    inside = tuple(f"{path}." for path, part in places.items() if isinstance(part, Adapted))
    found = {
        path: layer
        for path, layer in dense.items()
        if re.search(pattern, path) and not path.startswith(inside)
    }
    if not found:
        raise InputError(
            f"adapt: pattern must be found in the name of an nn.Linear; got {pattern!r}. "
            f"Names: {', '.join(dense) or 'none'}."
        )
    for path, layer in found.items():
        smaller = min(layer.in_features, layer.out_features)
        if rank > smaller:
            raise InputError(
                f"adapt: rank must be at most {smaller}, the smaller side of {path}; got {rank}. "
                "Lower it, or leave that layer out of the pattern."
            )
    made: dict[nn.Linear, Adapted] = {}
    for path, layer in found.items():
        if layer not in made:
            made[layer] = Adapted(layer, rank, alpha, dropout)
            if orthonormal:
                a = made[layer].lora_a.weight
                a.data = torch.linalg.qr(a.data.T.double())[0].T.to(a.dtype).contiguous()
        model.set_submodule(path, made[layer])
    for name, parameter in model.named_parameters():
        own = name.endswith((f".{_A}", f".{_B}"))
        parameter.requires_grad_(own or (learn is not None and re.search(learn, name) is not None))
    return model


# --- parameters of such a model, for strategies ---------------------------------------------------


def adapters(params: Tree) -> list[str]:
    """The paths of the adapted layers whose A and B are both in a tree, in its order."""
    paths = [name.removesuffix(_A) for name in params if name.endswith(f".{_A}")]
    return [path.removesuffix(".") for path in paths if path + _B in params]


def a_of(path: str) -> str:
    """The name of the A of an adapted layer."""
    return f"{path}.{_A}"


def b_of(path: str) -> str:
    """The name of the B of an adapted layer."""
    return f"{path}.{_B}"


def halves(params: Tree) -> tuple[Tree, Tree]:
    """Split a tree into all but the A's of its adapters, and those A's."""
    fixed = {a_of(path) for path in adapters(params)}
    return (
        {name: value for name, value in params.items() if name not in fixed},
        {name: value for name, value in params.items() if name in fixed},
    )


def needs_adapters(who: str) -> Callable[[Scenario], str | None]:
    """The refusal of a strategy that needs adapters."""

    def objection(scenario: Scenario) -> str | None:
        if adapters(scenario.task.init(0)):
            return None
        return (
            f"{who}: task must have adapters; got {scenario.task.name!r}, which has none. "
            "Add some to its model with fedsim.models.lora.adapt."
        )

    return objection
