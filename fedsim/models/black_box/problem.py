"""A black-box function as a task: only its values are known.

Shapes: d coordinates, b examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.core.batch import Batch, Penalty
from fedsim.core.dataset import Source, Split
from fedsim.core.errors import InputError
from fedsim.core.task import Task
from fedsim.core.trees import Tree

Query = Callable[[Tree, Tensor], Tensor]
"""(params, x [b, ...]) -> the function's output for each example [b, ...]."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A function F(x), the mean of the clients' functions.

    examples: of each client; a batch of all of them is its whole function.
    floor: the minimum of F, None if it is not known.
    """

    data: Source
    split: Split
    task: Task
    population: int
    examples: int
    floor: float | None


def black_box(
    name: str,
    *,
    query: Query,
    start: Callable[[int], Tree],
    value: Callable[[Tensor, Tensor], Tensor] | None = None,
    hits: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Task:
    """Make a task whose loss is the value of a function.

    Args:
        name: of the task.
        query: the output for each example; operations of torch, or `external(...)`.
        start: seed -> the first params.
        value: (outputs, y [b]) -> values [b]; left out, the outputs are the values. A value of
            several examples together needs one example that holds them all.
        hits: (outputs, y) -> whether each example counts as correct [b]; None for no accuracy.
    """

    def value_of(outputs: Tensor, y: Tensor) -> Tensor:
        return outputs if value is None else value(outputs, y)

    def loss(params: Tree, batch: Batch, penalty: Penalty | None = None) -> Tensor:
        if penalty is not None:
            raise InputError(
                f"black_box: {name} must be queried for values alone; got a penalty, which needs a "
                "model's outputs. Use a strategy that adds nothing to the loss."
            )
        return value_of(query(params, batch.x), batch.y)

    return Task(
        name=name,
        init=start,
        loss=loss,
        stacked_loss=None,
        predict=query,
        features=query,
        loss_of=value_of,
        convolutional=False,
        hits=hits,
    )


def external(function: Callable[[NDArray[Any], NDArray[Any]], float]) -> Query:
    """Query a function that is not made of tensors: a simulator, a program, a measurement.

    Args:
        function: (x [d], one example [...]) -> a number, NaN where there is no answer.

    Guarantees:
        It is called once for each query and example, whatever the width.
    """

    def query(params: Tree, x: Tensor) -> Tensor:
        values: Tensor = _External.apply(params["x"], x, function)  # type: ignore[no-untyped-call]
        return values

    return query


class _External(torch.autograd.Function):
    """One call after the other, under vmap too; it has no gradient."""

    @staticmethod
    def forward(x: Tensor, examples: Tensor, function: Callable[..., float]) -> Tensor:
        """The values of each example [b] at x [d]."""
        place = x.detach().cpu().numpy()
        found = [float(function(place, example.cpu().numpy())) for example in examples]
        return torch.tensor(found, dtype=x.dtype, device=x.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Any) -> tuple[Tensor, int]:
        """The values of k clients [k, b]."""
        rows = []
        for i in range(info.batch_size):
            x, examples = (
                part if dim is None else part.select(dim, i)
                for part, dim in zip(given[:2], in_dims[:2], strict=True)
            )
            rows.append(_External.apply(x, examples, given[2]))  # type: ignore[no-untyped-call]
        return torch.stack(rows), 0


def deferred(name: str, prepare: Callable[[Path | None], Task]) -> Task:
    """Stand in for a task until a run has read the data folder."""

    def too_early(*given: Any) -> Any:
        raise RuntimeError(f"{name}: cannot be queried before `prepare` has read its data")

    return replace(black_box(name, query=too_early, start=too_early), prepare=prepare)
