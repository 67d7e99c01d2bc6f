"""What stands between clients and their examples where single examples are protected.

Shapes: k clients of a chunk, b examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from fedsim.core.batch import Batch, Penalty
from fedsim.core.task import Task
from fedsim.core.trees import Tree

Memory = TypeVar("Memory")


class Asked(NamedTuple):
    """One question, of one client or [k, ...]. given: the penalty's own tensors."""

    params: Tree
    batch: Batch
    given: tuple[Tensor, ...]
    held: Tree


class ClientFacts(NamedTuple):
    """Public facts about a client that an example-level mechanism uses, the same in every round.

    expected: [], the client's average batch size. key: [], int64, seeds its noise.
    """

    expected: Tensor
    key: Tensor


@dataclass(frozen=True, kw_only=True)
class Question(Generic[Memory]):
    """One step's question of k clients at once; everything is [k, ...] but the numbers.

    call: how many questions the step asked before.
    """

    task: Task
    asked: Asked
    facts: ClientFacts
    memory: Memory
    penalty: Penalty | None
    call: int


@dataclass(frozen=True, kw_only=True)
class ExampleRule(Generic[Memory]):
    """What is done with the gradients of a batch's examples before they leave the client.

    answer: question -> gradients [k, ...], mean losses [k], the memory after it.
    memory: what a client keeps between steps and rounds, from its parameters; it is never sent.
    """

    answer: Callable[[Question[Memory]], tuple[Tree, Tensor, Memory]]
    memory: Callable[[Tree], Memory] = lambda params: ()  # type: ignore[assignment, return-value]
