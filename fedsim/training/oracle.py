"""Oracles: a strategy's access to gradients and losses. Example-level privacy is behind them.

An oracle serves one client in one local step; afterwards the trainer reads its losses and its
memory. Under `vmap` a call by k clients arrives here as one call with stacks, which the task's
stacked layers answer in one pass of ordinary autograd.

Shapes: k clients of a stack, b examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.func import grad_and_value

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle, Penalty
from fedsim.core.errors import PrivacyError
from fedsim.core.example_rule import Asked, ClientFacts, ExampleRule, Question
from fedsim.core.scenario import AnyStrategy
from fedsim.core.task import Task
from fedsim.core.trees import Tree


class StepOracle(Oracle, Protocol):
    """An oracle of one local step.

    losses: the mean loss at each point of a call, in order; the first is reported. Penalties are
        included.
    memory: what it keeps of the client; the oracle of the client's next step starts from it.
    """

    @property
    def losses(self) -> list[Tensor]:
        """The losses so far."""
        ...

    @property
    def memory(self) -> Any:
        """The memory after the calls so far."""
        ...


@dataclass(frozen=True, kw_only=True)
class OracleMaker:
    """How the oracle of each local step is made.

    make: (task, facts about the client, its memory) -> the oracle of one step.
    memory: parameters -> a client's memory before its first step.
    needs_facts: whether `make` uses facts about the client; it is given () where not.
    calls: gradients in a local step that are charged for; 0 without example-level privacy.
    """

    name: str
    make: Callable[[Task, Any, Any], StepOracle]
    memory: Callable[[Tree], Any] = lambda params: ()
    needs_facts: bool = False
    calls: int = 0


@dataclass(frozen=True)
class PlainOracle:
    """The oracle of a run without example-level privacy; see `StepOracle`."""

    task: Task
    losses: list[Tensor] = field(default_factory=list)
    memory: tuple[()] = ()

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """The gradient of the batch's mean loss at `params`."""
        asked = Asked(params, batch, penalty.given if penalty else (), held or {})
        gradient: Tree
        if self.task.stacked_loss is None and _inside_vmap():

            def loss_at(point: Tree) -> Tensor:
                return mean_loss(self.task, asked.held | point, batch, penalty)

            gradient, loss = grad_and_value(loss_at)(params)
        elif _inside_vmap():
            gradient, loss = _on_whole_stack(partial(_stacked_gradients, self.task, penalty), asked)
        else:
            gradient, loss = _one_gradient(self.task, penalty, asked)
        self.losses.append(loss.detach())
        return gradient

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """The batch's mean loss at `params`."""
        loss = mean_loss(self.task, params, batch)
        self.losses.append(loss.detach())
        return loss

    def features(self, params: Tree, batch: Batch) -> Tensor:
        """The input of the model's last dense layer for the batch, in evaluation mode."""
        return self.task.features(params, batch.x).detach()


def mean_loss(task: Task, params: Tree, batch: Batch, penalty: Penalty | None = None) -> Tensor:
    """The mean loss over the rows of the batch that are not padding, []."""
    return (task.loss(params, batch, penalty) * weights_of(batch)).sum()


def weights_of(batch: Batch) -> Tensor:
    """Each row's weight in the mean over its batch, [..., b]."""
    return batch.mask / batch.mask.sum(dim=-1, keepdim=True).clamp(min=1)


def _one_gradient(task: Task, penalty: Penalty | None, asked: Asked) -> tuple[Tree, Tensor]:
    """The gradient and the mean loss of one client."""
    if task.stacked_loss is not None:  # a stack of one: the same kernels as in a larger stack
        gradient, loss = _on_stack_of_one(partial(_stacked_gradients, task, penalty), asked)
        return gradient, loss
    with torch.enable_grad():
        point = {name: value.detach().requires_grad_() for name, value in asked.params.items()}
        loss = mean_loss(task, asked.held | point, asked.batch, penalty)
        parts = torch.autograd.grad(loss, list(point.values()), materialize_grads=True)
    return dict(zip(point, parts, strict=True)), loss


def _stacked_gradients(task: Task, penalty: Penalty | None, asked: Asked) -> tuple[Tree, Tensor]:
    """The gradients [k, ...] and the mean losses [k] of k clients, each at its own point."""
    assert task.stacked_loss is not None
    if penalty is not None:
        penalty = penalty._replace(given=asked.given)
    with torch.enable_grad():
        leaves = {name: point.detach().requires_grad_() for name, point in asked.params.items()}
        losses = task.stacked_loss(asked.held | leaves, asked.batch, penalty)
        weights = weights_of(asked.batch)
        parts = torch.autograd.grad(losses, list(leaves.values()), weights, materialize_grads=True)
    return dict(zip(leaves, parts, strict=True)), (losses.detach() * weights).sum(dim=1)


@dataclass
class PrivateOracle:
    """Passes the examples' gradients through a mechanism's rule; see `StepOracle`.

    calls: how many gradients of a step are charged for; one more is refused.
    memory: what the rule keeps of this client.
    """

    task: Task
    facts: ClientFacts
    rule: ExampleRule[Any]
    calls: int
    memory: Any = ()
    losses: list[Tensor] = field(default_factory=list)

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """The rule's gradient, with fresh noise in every call.

        Raises:
            PrivacyError: the penalty couples examples, so that clipping each bounds nothing, or
                the step makes more calls than were charged for.
        """
        if penalty is not None and not penalty.separable:
            raise PrivacyError(
                "gradient: penalty must be separable where gradients are clipped for each example; "
                "got one that couples the examples of a batch. Use its per-example form."
            )
        if len(self.losses) >= self.calls:
            raise PrivacyError(
                f"gradient: calls must be at most {self.calls} in a step, which is what the ledger "
                "was charged; got one more. A strategy must ask equally often in every step."
            )
        answer = partial(self._answer, len(self.losses), penalty)
        asked = Asked(params, batch, penalty.given if penalty else (), held or {})
        apply = _on_whole_stack if _inside_vmap() else _on_stack_of_one
        gradient, loss, self.memory = apply(answer, (asked, self.facts, self.memory))
        self.losses.append(loss)
        return gradient  # type: ignore[no-any-return]

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """Refused: losses are not covered by the privacy budget."""
        raise PrivacyError(
            "value: strategy must ask for gradients alone where examples are protected; got one "
            "that asks for a loss, which cannot be had under privacy. Use client_dp, or another."
        )

    def features(self, params: Tree, batch: Batch) -> Tensor:
        """The input of the last dense layer, for a penalty that is clipped with the loss."""
        return self.task.features(params, batch.x).detach()

    def _answer(self, call: int, penalty: Penalty | None, stacks: Any) -> Any:
        asked, facts, memory = stacks
        if penalty is not None:
            penalty = penalty._replace(given=asked.given)
        question = Question(
            task=self.task, asked=asked, facts=facts, memory=memory, penalty=penalty, call=call
        )
        gradient, losses, memory = self.rule.answer(question)
        return gradient, (losses * weights_of(asked.batch)).sum(dim=1), memory


PLAIN = OracleMaker(name="plain", make=lambda task, facts, memory: PlainOracle(task))
"""Makes plain oracles: without example-level privacy, facts and memory."""


def private_oracles(rule: ExampleRule[Any], calls: int) -> OracleMaker:
    """Make private oracles.

    Args:
        rule: the mechanism's.
        calls: how many gradients of a step are charged for.
    """

    def make(task: Task, facts: ClientFacts, memory: Any) -> PrivateOracle:
        return PrivateOracle(task, facts, rule, calls, memory)

    return OracleMaker(name="private", make=make, memory=rule.memory, needs_facts=True, calls=calls)


def count_calls(strategy: AnyStrategy, task: Task, params: Tree, x: Tensor, y: Tensor) -> int:
    """Count the gradients that a client asks for in one local step, on any x [1, ...] and y [1].

    Raises:
        PrivacyError: it asks for a loss.
    """
    unknown = torch.zeros((), device=x.device)
    silent = ExampleRule(
        answer=lambda q: (trees.zeros_like(q.asked.params), q.asked.batch.mask, ())
    )
    oracle = PrivateOracle(task, ClientFacts(unknown, unknown), silent, calls=1 << 30)
    batch = Batch(x, y, torch.ones(1, device=x.device), torch.zeros_like(y[0], dtype=torch.int64))
    broadcast = strategy.broadcast(strategy.init(params), 1)
    client = strategy.client_init(params)
    strategy.local_step(strategy.local_init(broadcast, client), batch, oracle, broadcast, client)
    return len(oracle.losses)


StackFunction = Callable[[Any], Any]
"""Stacks [k, ...] -> stacks [k, ...], in any structure of trees."""


def _on_stack_of_one(function: StackFunction, own: Any) -> Any:
    """Apply a function of stacks to one client: to a stack of one."""
    answer = function(trees.map_leaves(own, lambda tensor: tensor.unsqueeze(0)))
    return trees.map_leaves(answer, lambda tensor: tensor[0])


def _inside_vmap() -> bool:
    """Whether the caller is inside a vmap, so that the call is one by all clients of a stack."""
    return functorch.maybe_current_level() is not None


def _on_whole_stack(function: StackFunction, own: Any) -> Any:
    """Apply a function of stacks to all clients of the vmap that the caller is in.

    As torch.autograd.Function does for a function with a `vmap` method: the vmap's tensors are
    unwrapped to stacks, the function runs outside the vmap, and its results are wrapped again.
    """
    vmapped = retrieve_current_functorch_interpreter()
    level, k = vmapped.level(), vmapped.batch_size()  # type: ignore[attr-defined]

    def stack(tensor: Tensor) -> Tensor:
        whole, dim = functorch._unwrap_batched(tensor, level)
        return whole.expand(k, *whole.shape) if dim is None else whole.movedim(dim, 0)

    whole = trees.map_leaves(own, stack)
    with vmapped.lower():
        answer = function(whole)
    return trees.map_leaves(answer, lambda part: functorch._add_batch_dim(part, 0, level))
