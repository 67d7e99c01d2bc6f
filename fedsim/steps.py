"""Step rules: how a client moves along the gradient of its local objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedsim import trees
from fedsim.types import State, StepRule, Tree
from fedsim.validate import complain, in_unit_interval, non_negative, positive


class SgdState(NamedTuple):
    """lr: [], this round's; velocity: a tree, empty without momentum."""

    lr: Tensor
    velocity: Tree


def sgd(
    lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0, decay: float = 1.0
) -> StepRule[SgdState]:
    """Stochastic gradient descent; momentum starts anew in every round.

    Box (x: point, g: gradient, t: round, from 1):
        g <- g + weight_decay * x
        v <- momentum * v + g
        x <- x - lr * decay^(t - 1) * v

    Args:
        lr: learning rate of round 1.
        momentum: in [0, 1).
        weight_decay: coupled (L2), part of the gradient.
        decay: factor on the learning rate from round to round, > 0.

    Raises:
        InputError: a value is out of its range.
    """
    positive("sgd", "Use 0.1.", lr=lr)
    positive("sgd", "Use 1 for a constant learning rate.", decay=decay)
    in_unit_interval("sgd", "Use 0 or 0.9.", momentum=momentum)
    non_negative("sgd", "Use 0 or 1e-3.", weight_decay=weight_decay)

    def init(params: Tree, round_num: Tensor) -> SgdState:
        return SgdState(
            lr=lr * decay ** (round_num - 1),
            velocity=trees.zeros_like(params) if momentum else {},
        )

    def step(
        state: SgdState, params: Tree, gradient: Callable[[Tree], Tree]
    ) -> tuple[Tree, SgdState]:
        move = gradient(params)
        if weight_decay:
            move = trees.add_scaled(move, params, weight_decay)
        if momentum:
            move = trees.add_scaled(move, state.velocity, momentum)
            state = state._replace(velocity=move)
        return trees.add_scaled(params, move, -state.lr), state

    def reach(state: SgdState, steps: Tensor) -> Tensor:
        # v_k = 1 + momentum + ... + momentum^(k - 1); their sum over k = 1..K
        late = momentum * (1 - momentum**steps) / (1 - momentum)
        return state.lr * (steps - late) / (1 - momentum)

    return StepRule(name=f"sgd({lr:g})", init=init, step=step, reach=reach)


class AdamState(NamedTuple):
    """first, second: decaying means of gradients and of their squares; taken: steps so far, []."""

    first: Tree
    second: Tree
    taken: Tensor


def adam(
    lr: float, *, beta_1: float = 0.9, beta_2: float = 0.999, eps: float = 1e-8
) -> StepRule[AdamState]:
    """Adam, which moves every coordinate by about `lr`; its means start anew in every round.

    Box (x: point, g: gradient, k: step, from 1):
        m <- beta_1 m + (1 - beta_1) g;      v <- beta_2 v + (1 - beta_2) g^2
        x <- x - lr (m / (1 - beta_1^k)) / (sqrt(v / (1 - beta_2^k)) + eps)

    It has no reach: how far it goes does not depend on the length of the gradients.

    Raises:
        InputError: lr or eps is not above 0, or a beta is outside [0, 1).

    Guarantees:
        It takes the steps of torch.optim.Adam.

    Source:
        Kingma, Ba (2015), arXiv:1412.6980, Algorithm 1.
    """
    positive("adam", "Use 0.01 and 1e-8.", lr=lr, eps=eps)
    in_unit_interval("adam", "Use 0.9 and 0.999.", beta_1=beta_1, beta_2=beta_2)

    def init(params: Tree, round_num: Tensor) -> AdamState:
        zeros = trees.zeros_like(params)
        return AdamState(zeros, zeros, torch.zeros_like(round_num))

    def step(
        state: AdamState, params: Tree, gradient: Callable[[Tree], Tree]
    ) -> tuple[Tree, AdamState]:
        g, k = gradient(params), state.taken + 1
        first = {n: torch.lerp(m, g[n], 1 - beta_1) for n, m in state.first.items()}
        second = {n: torch.lerp(v, g[n].square(), 1 - beta_2) for n, v in state.second.items()}
        far, wide = lr / (1 - beta_1**k), (1 - beta_2**k).sqrt()
        moved = {n: x - far * first[n] / (second[n].sqrt() / wide + eps) for n, x in params.items()}
        return moved, AdamState(first, second, k)

    return StepRule(name=f"adam({lr:g})", init=init, step=step, reach=None)


def boxed(rule: StepRule[State], low: float, high: float) -> StepRule[State]:
    """The same rule, each of whose steps ends at the nearest point of the box [low, high]^d.

    Raises:
        InputError: low is not below high.
    """
    if not low < high:
        raise complain("boxed", "low", f"below high, {high}", low, "Use 0 and 1.")

    def step(state: State, params: Tree, gradient: Callable[[Tree], Tree]) -> tuple[Tree, State]:
        moved, after = rule.step(state, params, gradient)
        return {name: value.clamp(low, high) for name, value in moved.items()}, after

    return StepRule(name=f"boxed({rule.name})", init=rule.init, step=step, reach=None)


class Counted(NamedTuple):
    """rule: the state of the rule that is counted; taken: its steps so far, []."""

    rule: Any
    taken: Tensor


class Counting(NamedTuple):
    """A step rule that counts, and how far its state says that it would have carried."""

    rule: StepRule[Counted]
    reach: Callable[[Counted], Tensor]


def counted(rule: StepRule[Any]) -> Counting:
    """The same rule with a count of its steps, for algorithms that divide by how far it reaches.

    Raises:
        InputError: the rule has no reach.
    """
    known = rule.reach
    if known is None:
        raise complain(
            "counted", "steps", "a rule whose moves are linear in the gradients", rule.name,
            "Use sgd, or an algorithm that does not divide by how far a client went.",
        )  # fmt: skip

    def init(params: Tree, round_num: Tensor) -> Counted:
        return Counted(rule.init(params, round_num), torch.zeros_like(round_num))

    def step(
        state: Counted, params: Tree, gradient: Callable[[Tree], Tree]
    ) -> tuple[Tree, Counted]:
        after, inner = rule.step(state.rule, params, gradient)
        return after, Counted(inner, state.taken + 1)

    def reach(state: Counted, steps: Tensor) -> Tensor:
        return known(state.rule, steps)

    counting = StepRule(name=rule.name, init=init, step=step, reach=reach)
    return Counting(counting, lambda state: reach(state, state.taken))


class Summed(NamedTuple):
    """rule: the state of the rule that is watched; total: of its gradients; taken: its steps."""

    rule: Any
    total: Tree
    taken: Tensor


class Averaging(NamedTuple):
    """A step rule that is watched, and (its state, the client's diff) -> its mean gradient."""

    rule: StepRule[Any]
    mean: Callable[[Any, Tree], Tree]


def averaged(rule: StepRule[Any]) -> Averaging:
    """The same rule, and the mean of the gradients that it followed in a round.

    Where the rule has a reach, the diff says it (and weighs each gradient by how far it carried);
    else the gradients are summed on the way. For plain SGD the two are equal.
    """
    if rule.reach is not None:
        counting, reach = counted(rule)
        return Averaging(counting, lambda state, diff: trees.scale(diff, -1 / reach(state)))

    def init(params: Tree, round_num: Tensor) -> Summed:
        zero = torch.zeros_like(round_num)
        return Summed(rule.init(params, round_num), trees.zeros_like(params), zero)

    def step(state: Summed, params: Tree, gradient: Callable[[Tree], Tree]) -> tuple[Tree, Summed]:
        seen: list[Tree] = []

        def noted(point: Tree) -> Tree:
            seen.append(gradient(point))
            return seen[-1]

        after, inner = rule.step(state.rule, params, noted)
        return after, Summed(inner, trees.add(state.total, seen[0]), state.taken + 1)

    watched = StepRule(name=rule.name, init=init, step=step, reach=None)
    return Averaging(watched, lambda state, diff: trees.scale(state.total, 1 / state.taken))
