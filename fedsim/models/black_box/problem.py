"""A function as a task: what makes an ordinary task out of something that gives values.

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

Ask = Callable[[Tree, Tensor], Tensor]
"""(params, x [b, ...]) -> what is seen of each example [b, ...]."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """F(x), the mean of what the clients own of it.

    examples: of each client; a batch of all of them is its whole function.
    floor: the least value that F can take, None where nobody knows.
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
    ask: Ask,
    start: Callable[[int], Tree],
    value: Callable[[Tensor, Tensor], Tensor] | None = None,
    hits: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Task:
    """A task whose loss is whatever a function says.

    Args:
        name: of the task.
        ask: what is seen of each example; operations of torch, or `outside(...)`.
        start: seed -> the first params.
        value: (what is seen, y [b]) -> values [b]; left out, what is seen are the values. One that
            belongs to several examples together should be that of one example which holds them all.
        hits: (what is seen, y) -> whether each example is as wished [b]; None without a wish.
    """

    def value_of(seen: Tensor, y: Tensor) -> Tensor:
        return seen if value is None else value(seen, y)

    def loss(params: Tree, batch: Batch, penalty: Penalty | None = None) -> Tensor:
        if penalty is not None:
            raise InputError(
                f"black_box: {name} must be asked for values alone; got a penalty, which needs a "
                "model's outputs. Use a strategy that adds nothing to the loss."
            )
        return value_of(ask(params, batch.x), batch.y)

    return Task(
        name=name,
        init=start,
        loss=loss,
        stacked_loss=None,
        predict=ask,
        features=ask,
        loss_of=value_of,
        convolutional=False,
        hits=hits,
    )


def outside(function: Callable[[NDArray[Any], NDArray[Any]], float]) -> Ask:
    """What asks a function that is not made of tensors: a simulator, a program, a measurement.

    Args:
        function: (x [d], one example [...]) -> a number, NaN where there is no answer.

    Guarantees:
        It is called once for each query and example, whatever the width.
    """

    def ask(params: Tree, x: Tensor) -> Tensor:
        values: Tensor = _Outside.apply(params["x"], x, function)  # type: ignore[no-untyped-call]
        return values

    return ask


class _Outside(torch.autograd.Function):
    """One call after the other, also where vmap asks for a stack; it knows no gradient."""

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
            rows.append(_Outside.apply(x, examples, given[2]))  # type: ignore[no-untyped-call]
        return torch.stack(rows), 0


def unread(name: str, prepare: Callable[[Path | None], Task]) -> Task:
    """What stands for a task until a run reads it from the data folder."""

    def too_early(*given: Any) -> Any:
        raise RuntimeError(f"{name}: nothing can be asked before `prepare` has read it")

    return replace(black_box(name, ask=too_early, start=too_early), prepare=prepare)
