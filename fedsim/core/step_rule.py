"""The record of a step rule: a client's local optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from fedsim.core.trees import Tree

State = TypeVar("State")


@dataclass(frozen=True, kw_only=True)
class StepRule(Generic[State]):
    """A local optimiser, given the gradient function of the local objective on a step's batch.

    init: (params, round_num as a tensor []) -> state;  step: (state, params, gradient) -> both.
    The function, not its value, is passed in: some rules take gradients at several points.
    reach: (state, steps taken, []) -> the distance moved by a constant gradient of 1, []:
        eta K for plain SGD. Dividing a client's diff by it gives its mean gradient. None if no such
        number exists, because steps are not linear in the gradients.
    """

    name: str
    init: Callable[[Tree, Tensor], State]
    step: Callable[[State, Tree, Callable[[Tree], Tree]], tuple[Tree, State]]
    reach: Callable[[State, Tensor], Tensor] | None
