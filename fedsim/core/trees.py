"""Arithmetic on trees: pure functions of one tree or a stack, also under vmap.

As in torch, a function that writes to its first argument has a name that ends in an underscore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

Tree = dict[str, Tensor]
"""Parameters, or anything with the same keys. A stack is a tree of tensors [k, ...]."""


T = TypeVar("T")


def add(a: Tree, b: Tree) -> Tree:
    """The sum of two trees."""
    return {name: a[name] + b[name] for name in a}


def subtract(a: Tree, b: Tree) -> Tree:
    """The difference of two trees, the first less the second."""
    return {name: a[name] - b[name] for name in a}


def scale(tree: Tree, factor: Tensor | float) -> Tree:
    """A tree times a number."""
    return {name: tensor * factor for name, tensor in tree.items()}


def add_scaled(a: Tree, b: Tree, factor: Tensor | float) -> Tree:
    """The sum a + factor * b, in one pass over memory."""
    if isinstance(factor, Tensor):
        return {name: torch.addcmul(a[name], b[name], factor) for name in a}
    return {name: torch.add(a[name], b[name], alpha=factor) for name in a}


def zeros_like(tree: Tree) -> Tree:
    """Zeros in the shape of `tree`."""
    return {name: torch.zeros_like(tensor) for name, tensor in tree.items()}


def norm(tree: Tree) -> Tensor:
    """The Euclidean norm over all tensors together, shape []."""
    return torch.stack([tensor.square().sum() for tensor in tree.values()]).sum().sqrt()


def flatten(tree: Tree) -> Tensor:
    """The tensors of a tree end to end, one vector [d]."""
    return torch.cat([tensor.flatten() for tensor in tree.values()])


def unflatten(vector: Tensor, like: Tree) -> Tree:
    """The inverse of `flatten`: a vector [d] in the names, shapes and types of `like`."""
    parts = torch.split(vector, [tensor.numel() for tensor in like.values()])
    return {
        name: part.reshape(tensor.shape).to(tensor.dtype)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }


def flatten_rows(stack: Tree, names: Iterable[str]) -> Tensor:
    """The rows of a stack end to end, as `flatten` has each: [k, d], its tensors in this order."""
    return torch.cat([stack[name].unsqueeze(-1).flatten(1) for name in names], dim=1)


def unflatten_rows(matrix: Tensor, like: Tree) -> Tree:
    """The inverse of `flatten_rows`: rows [k, d] in the names, shapes and types of `like`."""
    parts = torch.split(matrix, [tensor.numel() for tensor in like.values()], dim=1)
    return {
        name: part.reshape(-1, *tensor.shape).to(tensor.dtype)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }


def where(condition: Tensor, first: T, second: T) -> T:
    """`first` where the condition [] holds, else `second`: states of the same structure."""
    pairs = zip(leaves(first), leaves(second), strict=True)
    return rebuild(first, [torch.where(condition, a, b) for a, b in pairs])


def add_prefix(tree: Tree, part: str) -> Tree:
    """The same tensors under the names `part/...`, to be sent together with another tree."""
    return {f"{part}/{name}": tensor for name, tensor in tree.items()}


def take_part(tree: Tree, part: str) -> Tree:
    """The inverse of `add_prefix`: the tensors of that part, under their own names."""
    return {
        name.removeprefix(f"{part}/"): tensor
        for name, tensor in tree.items()
        if name.startswith(f"{part}/")
    }


def finite_rows(stack: Tree) -> Tensor:
    """Which rows of a stack have only finite entries; [k], bool.

    A sum is finite only if all its terms are, and takes one pass over memory. (Terms so large that
    their sum overflows count as not finite.)
    """
    sums = [tensor.unsqueeze(-1).flatten(1).sum(dim=1) for tensor in stack.values()]
    return torch.stack(sums).isfinite().all(dim=0)


def select_rows(stack: Tree, keep: Tensor) -> Tree:
    """The rows of a stack that `keep` selects, by mask or index."""
    return {name: tensor[keep] for name, tensor in stack.items()}


def add_weighted_(total: Tree, stack: Tree, weights: Tensor) -> Tree:
    """Add sum_i weights[i] * stack[i] to `total` in place: one matrix-vector product a tensor."""
    for name, tensor in stack.items():
        into, columns = total[name], tensor.unsqueeze(-1).flatten(1).T
        into.view(-1).addmv_(columns.to(into.dtype), weights.to(into.dtype))
    return total


def num_bytes(state: object) -> int:
    """How many bytes the tensors of a state take."""
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves(state))


def leaves(state: object) -> list[Tensor]:
    """The tensors of a state (trees, tensors and NamedTuples of them), in a fixed order."""
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state
    if not isinstance(parts, Iterable):
        return []
    return [leaf for part in parts for leaf in leaves(part)]


def rebuild(like: T, tensors: list[Tensor]) -> T:
    """The inverse of `leaves`: a state of the same structure as `like` from its tensors.

    Raises:
        ValueError: the number of tensors is not the number of leaves of `like`.
    """
    expected = len(leaves(like))
    if expected != len(tensors):
        raise ValueError(f"rebuild: expected {expected} tensors, got {len(tensors)}.")
    rest = iter(tensors)
    return map_leaves(like, lambda _: next(rest))


def map_leaves(state: T, function: Callable[[Tensor], Tensor]) -> T:
    """Apply `function` to every tensor of a state, in the order of `leaves`."""
    mapped: Any
    if isinstance(state, Tensor):
        mapped = function(state)
    elif isinstance(state, dict):
        mapped = {
            name: function(part) if isinstance(part, Tensor) else map_leaves(part, function)
            for name, part in state.items()
        }
    elif isinstance(state, tuple):
        parts = [
            function(part) if isinstance(part, Tensor) else map_leaves(part, function)
            for part in state
        ]
        mapped = type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    else:
        mapped = state
    result: T = mapped
    return result
