"""What a client's step works on: a batch, what a model says of it, and the oracle that is asked.

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
    """What a model says of a batch. features: [b, f], what its last dense layer sees."""

    features: Tensor
    logits: Tensor  # [b, C]


class Penalty(NamedTuple):
    """What a strategy adds to the loss of each example, so that it is clipped with it.

    of: (outputs, mask [b], *given) -> [b].
    given: tensors [b, ...] that go with the examples.
    separable: row i depends on row i alone; clipping for each example refuses anything else.
    """

    of: Callable[..., Tensor]
    given: tuple[Tensor, ...] = ()
    separable: bool = True


class Oracle(Protocol):
    """All that a strategy may ask of the data. Example-level privacy lives behind it.

    held are parameters that the model needs and that are not learned here.
    """

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """The gradient of the batch's mean loss at `params`, with the penalty's."""
        ...

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """The batch's mean loss at `params`, shape []."""
        ...

    def features(self, params: Tree, batch: Batch) -> Tensor:
        """What the model's last dense layer sees of the batch at `params`, in evaluation; [b, f].

        Only for the use of a penalty: no example's features may reach another's loss, or an update.
        """
        ...
