"""Trace a model into a list of layers and functions, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import fx, nn


class Step(NamedTuple):
    """One node of a traced model: a layer at a path, or a function. The model's input is ''.

    weights: a layer's own name of each parameter -> the model's name of it.
    """

    name: str
    inputs: tuple[str, ...]
    path: str
    layer: nn.Module | None
    weights: Mapping[str, str]
    function: Any


def trace(
    model: nn.Module, supports: Callable[[nn.Module], bool], functions: Mapping[Any, int]
) -> list[Step] | None:
    """The steps of a model of one input and one output; None if one of them is not supported.

    Args:
        model: any module.
        supports: whether a layer may be a step.
        functions: the functions that may be steps, and how many values each takes.
    """
    layers = dict(model.named_modules())
    try:
        graph = _Tracer(supports).trace(model)
    except Exception:  # control flow that depends on data, and all else that cannot be traced
        return None
    names: dict[fx.Node, str] = {}
    steps: list[Step] = []
    for node in graph.nodes:
        plain = all(isinstance(arg, fx.Node) for arg in node.args)
        if node.op == "placeholder" and not names:
            names[node] = ""
        elif node.op == "call_module" and plain and not node.kwargs:
            layer = layers[str(node.target)]
            if not supports(layer):
                return None
            inputs = tuple(names[arg] for arg in node.args)
            names[node] = node.name
            path = str(node.target)
            own = {part: f"{path}.{part}" for part, _ in layer.named_parameters(recurse=False)}
            steps.append(Step(node.name, inputs, path, layer, own, None))
        elif node.op == "call_function" and plain and set(node.kwargs) <= {"inplace"}:
            if functions.get(node.target) != len(node.args):
                return None
            inputs = tuple(names[arg] for arg in node.args)
            names[node] = node.name
            steps.append(Step(node.name, inputs, "", None, {}, node.target))
        elif node.op != "output" or not steps or names.get(node.args[0]) != steps[-1].name:
            return None
    return steps


class _Tracer(fx.Tracer):
    """Supported layers are leaves of the graph."""

    def __init__(self, supports: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._supports = supports

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node of the graph."""
        return self._supports(m) or super().is_leaf_module(m, module_qualified_name)
