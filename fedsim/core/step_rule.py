"""How a client moves, given gradients: the record of a local optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from fedsim.core.trees import Tree

State = TypeVar("State")


@dataclass(frozen=True, kw_only=True)
class StepRule(Generic[State]):
    """How a client moves, given a gradient function of its local objective on this step's batch.

    init: (params, round_num as a tensor []) -> state;  step: (state, params, gradient) -> both.
    The function, not its value, is passed in: some rules look at more than one point.
    reach: (state, steps taken, []) -> how far a gradient of 1, always the same, has moved, []:
        eta K for plain SGD. Dividing a client's diff by it gives its mean gradient. None where
        no such number exists, because moves are not linear in the gradients.
    """

    name: str
    init: Callable[[Tree, Tensor], State]
    step: Callable[[State, Tree, Callable[[Tree], Tree]], tuple[Tree, State]]
    reach: Callable[[State, Tensor], Tensor] | None
