"""What is learned: a model as pure functions of its parameters, and its loss of each example.

Shapes: k clients of a stack, b examples of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from fedsim.core.batch import Batch, Penalty
from fedsim.core.trees import Tree


class LayerCall(NamedTuple):
    """The inputs and outputs of a layer with parameters: per-example gradients come from them."""

    path: str
    layer: nn.Module
    inputs: Tensor  # as the layer's stacked form uses them
    outputs: Tensor  # in the autograd graph if the layer's parameters are learned


class Loss(Protocol):
    """The loss of each example of a batch."""

    def __call__(self, params: Tree, batch: Batch, penalty: Penalty | None = None) -> Tensor:
        """Losses [b], with what a penalty adds to them."""
        ...


class StackedLoss(Protocol):
    """The losses of k clients' batches at once."""

    def __call__(
        self,
        params: Tree,
        batch: Batch,
        penalty: Penalty | None = None,
        tape: list[LayerCall] | None = None,
    ) -> Tensor:
        """(stacked params, batch [k, ...], penalty's given [k, ...]) -> losses [k, b]."""
        ...


def top_class(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the largest of the logits [b, C] is that of the class y [b]; [b]."""
    return logits.argmax(dim=1) == y


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned.

    init: seed -> trainable parameters.
    loss: in training mode.
    stacked_loss: the losses of k clients at once, by stacked forms of the layers; None if the model
        has a layer without a stacked form.
    predict: (params, x [b, ...]) -> logits [b, C], in evaluation mode.
    features: (params, x [b, ...]) -> inputs of the last dense layer [b, f], in evaluation mode.
    loss_of: (logits, y) -> loss of each example [b].
    convolutional: whether a step's time goes into arithmetic rather than overhead.
    hits: (logits, y) -> whether each prediction counts as correct [b], bool; its mean is the
        accuracy. None if the task has no accuracy.
    module: parameters -> the user's own module with these parameters, in evaluation mode; None
        where the task was not made from a module.
    prepare: data folder -> this task, with what it must read before a run, such as the weights of
        a trained model. None if it needs nothing.
    """

    name: str
    init: Callable[[int], Tree]
    loss: Loss
    stacked_loss: StackedLoss | None
    predict: Callable[[Tree, Tensor], Tensor]
    features: Callable[[Tree, Tensor], Tensor]
    loss_of: Callable[[Tensor, Tensor], Tensor]
    convolutional: bool
    hits: Callable[[Tensor, Tensor], Tensor] | None = top_class
    module: Callable[[Tree], nn.Module] | None = None
    prepare: Callable[[Path | None], Task] | None = None
