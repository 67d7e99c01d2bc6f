"""Oracles: what answers a strategy's questions about the data.

A strategy asks for one client. Under `vmap` the question of k clients arrives here whole, and is
answered by the task's stacked layers, in one pass of ordinary autograd.

Shapes: k clients of a stack, b examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.func import grad_and_value

from fedsim.core import trees
from fedsim.core.batch import Batch, Penalty
from fedsim.core.errors import PrivacyError
from fedsim.core.example_rule import Asked, ExampleRule, Question, Who
from fedsim.core.scenario import AnyStrategy
from fedsim.core.task import Task
from fedsim.core.trees import Tree


@dataclass(frozen=True)
class PlainOracle:
    """The oracle of a run without example-level privacy. Serves one step; notes what it saw.

    losses: the mean loss at each point asked, in order; the first is what is reported. Penalties
        are in it.
    """

    task: Task
    losses: list[Tensor] = field(default_factory=list)

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """The gradient of the batch's mean loss at `params`."""
        asked = Asked(params, batch, penalty.given if penalty else (), held or {})
        gradient: Tree
        if self.task.stacked_loss is None and _vmapped():

            def loss_at(point: Tree) -> Tensor:
                return mean_loss(self.task, asked.held | point, batch, penalty)

            gradient, loss = grad_and_value(loss_at)(params)
        elif _vmapped():
            gradient, loss = _together(partial(_stacked_gradients, self.task, penalty), asked)
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
        """What the model's last dense layer sees of the batch, in evaluation mode."""
        return self.task.features(params, batch.x).detach()


def mean_loss(task: Task, params: Tree, batch: Batch, penalty: Penalty | None = None) -> Tensor:
    """The mean loss over the rows of the batch that are not padding, []."""
    return (task.loss(params, batch, penalty) * weights_of(batch)).sum()


def weights_of(batch: Batch) -> Tensor:
    """What each row counts in the mean of its own batch, [..., b]."""
    return batch.mask / batch.mask.sum(dim=-1, keepdim=True).clamp(min=1)


def _one_gradient(task: Task, penalty: Penalty | None, asked: Asked) -> tuple[Tree, Tensor]:
    """The gradient and the mean loss of one client."""
    if task.stacked_loss is not None:  # a stack of one: the same kernels as in a larger stack
        gradient, loss = _alone(partial(_stacked_gradients, task, penalty), asked)
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
    """Answers with what a mechanism makes of the examples' gradients. Serves one step.

    rule: the mechanism's.
    calls: how many questions of a step are charged for; one more is refused.
    memory: what the rule keeps of this client; `remembering` brings it and takes it away.
    """

    task: Task
    who: Who
    rule: ExampleRule[Any]
    calls: int
    memory: Any = ()
    losses: list[Tensor] = field(default_factory=list)

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """The rule's answer; every call draws noise of its own.

        Raises:
            PrivacyError: the penalty couples examples, so that clipping each bounds nothing, or
                the step asks more often than was charged for.
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
        rule = partial(self._answer, len(self.losses), penalty)
        asked = Asked(params, batch, penalty.given if penalty else (), held or {})
        answered = _together if _vmapped() else _alone
        gradient, loss, self.memory = answered(rule, (asked, self.who, self.memory))
        self.losses.append(loss)
        return gradient  # type: ignore[no-any-return]

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """Refused: a loss is a look at the data that nobody has paid for."""
        raise PrivacyError(
            "value: strategy must ask for gradients alone where examples are protected; got one "
            "that asks for a loss, which cannot be had under privacy. Use client_dp, or another."
        )

    def features(self, params: Tree, batch: Batch) -> Tensor:
        """What the model's last dense layer sees, for a penalty that is clipped with the loss."""
        return self.task.features(params, batch.x).detach()

    def _answer(self, call: int, penalty: Penalty | None, stacks: Any) -> Any:
        asked, who, memory = stacks
        if penalty is not None:
            penalty = penalty._replace(given=asked.given)
        question = Question(
            task=self.task, asked=asked, who=who, memory=memory, penalty=penalty, call=call
        )
        gradient, losses, memory = self.rule.answer(question)
        return gradient, (losses * weights_of(asked.batch)).sum(dim=1), memory


def plain(task: Task, who: Any) -> PlainOracle:
    """The oracle of everybody, where there is no example-level privacy and nobody is asked who."""
    return PlainOracle(task)


def count_calls(strategy: AnyStrategy, task: Task, params: Tree, x: Tensor, y: Tensor) -> int:
    """How many gradients a client asks for in one local step; x [1, ...] and y [1] are any.

    Raises:
        PrivacyError: it asks for a loss.
    """
    unknown = torch.zeros((), device=x.device)
    silent = ExampleRule(
        answer=lambda q: (trees.zeros_like(q.asked.params), q.asked.batch.mask, ())
    )
    oracle = PrivateOracle(task, Who(unknown, unknown), silent, calls=1 << 30)
    batch = Batch(x, y, torch.ones(1, device=x.device), torch.zeros_like(y[0], dtype=torch.int64))
    broadcast = strategy.broadcast(strategy.init(params), 1)
    client = strategy.client_init(params)
    strategy.local_step(strategy.local_init(broadcast, client), batch, oracle, broadcast, client)
    return len(oracle.losses)


Rule = Callable[[Any], Any]
"""Stacks [k, ...] -> stacks [k, ...], in any structure of trees."""


def _alone(rule: Rule, own: Any) -> Any:
    """A rule for one client: a stack of one."""
    answer = rule(trees.map_leaves(own, lambda tensor: tensor.unsqueeze(0)))
    return trees.map_leaves(answer, lambda tensor: tensor[0])


def _vmapped() -> bool:
    """Whether the caller is inside of a vmap, and so asks for a whole stack."""
    return functorch.maybe_current_level() is not None


def _together(rule: Rule, own: Any) -> Any:
    """A rule for the client that the caller sees, done for all clients of the vmap at once.

    What torch.autograd.Function does for a function with a `vmap` of its own, without the rest: a
    tensor of the vmap is unwrapped to its stack, the rule runs outside, and its stacks are wrapped.
    """
    vmapped = retrieve_current_functorch_interpreter()
    level, k = vmapped.level(), vmapped.batch_size()  # type: ignore[attr-defined]

    def stack(tensor: Tensor) -> Tensor:
        whole, dim = functorch._unwrap_batched(tensor, level)
        return whole.expand(k, *whole.shape) if dim is None else whole.movedim(dim, 0)

    whole = trees.map_leaves(own, stack)
    with vmapped.lower():
        answer = rule(whole)
    return trees.map_leaves(answer, lambda part: functorch._add_batch_dim(part, 0, level))
