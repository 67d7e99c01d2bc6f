"""What a client's step works on: a batch, a model's outputs, a penalty, and the gradient oracle.

Shapes: b examples of a batch, C classes, f features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from fedsim.core.trees import Tree


class Batch(NamedTuple):
    """One mini-batch of one client. Rows whose mask is 0 are padding and count for nothing."""

    x: Tensor  # [b, ...]
    y: Tensor  # [b]
    mask: Tensor  # [b], 0. or 1.
    key: Tensor  # [], int64: the randomness of this step (dropout), the same wherever it runs


class Outputs(NamedTuple):
    """A model's outputs for a batch. features: [b, f], the inputs of its last dense layer."""

    features: Tensor
    logits: Tensor  # [b, C]


class Penalty(NamedTuple):
    """A term that a strategy adds to the loss of each example, and that is clipped with it.

    of: (outputs, mask [b], *given) -> [b].
    given: further arguments of `of`, tensors [b, ...] with one row for each example.
    separable: row i depends on example i alone; per-example clipping refuses anything else.
    """

    of: Callable[..., Tensor]
    given: tuple[Tensor, ...] = ()
    separable: bool = True


class Oracle(Protocol):
    """The only access of a strategy to the data; example-level privacy is enforced here.

    held: parameters that the model needs and that this strategy does not train.
    """

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """The gradient of the batch's mean loss, penalty included, at `params`."""
        ...

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """The batch's mean loss at `params`, shape []."""
        ...

    def features(self, params: Tree, batch: Batch) -> Tensor:
        """The inputs of the model's last dense layer at `params`, in evaluation mode; [b, f].

        For penalties only: no example's features may reach another example's loss, or an update.
        """
        ...
