"""FZooS: clients estimate the gradient of a black box from all their past queries.

Paper
    Shu, Lin, Dai, Low. "Federated Zeroth-Order Optimization using Trajectory-Informed Surrogate
    Gradients". 2023. arXiv:2308.04077, Algorithm 2.

Notation
    x guide.params    x_t local.params    D_i client.points, client.values    mu_i their fit
    w_i client.summary    wbar guide.summary    gamma correction    T steps that move
    L looks, steps that only query    q active

Algorithm (all queries of client i go to its own F_i)
    1  wbar = 0, all w_i = 0, all D_i empty;  for r = 1..R:
    2      send x and wbar to the cohort
    3      each i:  x_0 <- x;  L times: query F_i at 1 + q places near x_0, add them to D_i
    4          for t = 1..T:
    5              g = grad mu_i(x_{t-1}) + gamma / t (grad wbar(x_{t-1}) - grad w_i(x_{t-1}))
    6              x_t <- the step rule's step along g, kept within the bounds
    7              query F_i at x_t and at q places near it, add them to D_i
    8          w_i <- summary of D_i in M shared random features;  send x_T - x and w_i
    9      x <- mean x_{i,T},  wbar <- mean w_i
    places near x: of `candidates` random ones, within `radius` of x in each coordinate, those
    where the gradient of mu_i is least certain

Deviations
    There is one exchange in a round, not two: the paper's clients query around the new x and then
    send w_i; here they query around it when the next round starts (line 3), so w_i is older.
    The first round's line 3 is the initial design (10 points in the paper: two looks with q = 5).
    D_i is the most recent `memory` points (the code keeps the nearest 150).  The kernel is the
    squared exponential with a fixed length scale, and its gradient analytic; the code fits a
    Matern kernel and differs numerically.  Line 6 projects.  A client that has never sent a
    summary is not corrected.  The server does not query F to reject an x.  With fade = False the
    whole correction is used in every step (gamma for gamma / t), as in SCAFFOLD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle
from fedsim.core.errors import at_least, non_negative, positive
from fedsim.core.rng import mix, uniforms
from fedsim.core.scenario import AnyStrategy, Scenario
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from fedsim.core.updates import Released
from strategies.aggregators.mean import needs_mean
from strategies.fedavg import fedavg
from strategies.shared import gaussian_process
from strategies.shared.surrogate import Surrogate
from strategies.step_rules import boxed

_PLACES = 0xAC71  # tells the draw of a step's places from its other draws
_PART = "surrogate"


class Server(NamedTuple):
    """params: x; summary: wbar, [M]."""

    params: Tree
    summary: Tensor


class Guide(NamedTuple):
    """What clients get. params: x; summary: wbar, [M]; round_num: r, []."""

    params: Tree
    summary: Tensor
    round_num: Tensor


class Memory(NamedTuple):
    """A client's memory: D_i and w_i.

    points: [n, d], the newest last.   values: [n], not finite where there is none.   summary: [M].
    """

    points: Tensor
    values: Tensor
    summary: Tensor


class Local(NamedTuple):
    """A client at work. params: x_t; rule: the step rule's state; points, values: D_i.

    taken: steps so far, [];  answers: queries of this round with a finite answer, [].
    """

    params: Tree
    rule: Any
    points: Tensor
    values: Tensor
    taken: Tensor
    answers: Tensor


def fzoos(
    *,
    steps: StepRule[Any],
    bounds: tuple[float, float] | None = (0.0, 1.0),
    looks: int = 2,
    active: int = 5,
    candidates: int = 100,
    radius: float = 0.01,
    correction: float = 1.0,
    fade: bool = True,
    surrogate: Surrogate = Surrogate(),
) -> AnyStrategy:
    """Federated zeroth-order optimisation with trajectory-informed surrogate gradients.

    A step of the batch plan is a look or a move: the plan needs more than `looks` of them. Every
    step queries 1 + active values.

    Args:
        steps: how a client moves (line 6); Adam with lr 0.01 in the paper.
        bounds: the least and largest value of every parameter; None where there are none.
        looks: L, steps of a round that only query, before the first that moves.
        active: q, places queried beside the point itself.
        candidates: random places of which these are chosen.
        radius: how far from x_t, in each coordinate, they may be.
        correction: gamma; 0 for none.
        fade: whether gamma is divided by t, as in the paper's practice.
        surrogate: how a client models its function.

    Raises:
        InputError: a value is out of its range.

    Guarantees:
        A client makes T (1 + active) + looks (1 + active) queries a round, neither more nor less.
        Clients with the same memory are not corrected.
        With correction = 0 a client's work does not depend on the others.
        A query without a finite answer is dropped; a client without any is left out.
    """
    at_least("fzoos", 0, "Use 2.", looks=looks)
    at_least("fzoos", 1, "Use 5.", active=active)
    at_least("fzoos", active + 1, "Use 100.", candidates=candidates)
    at_least("fzoos", active + 1, "Use 150.", memory=surrogate.memory)
    positive("fzoos", "Use 0.01.", radius=radius)
    non_negative("fzoos", "Use 1, or 0 for none.", correction=correction)
    rule = steps if bounds is None else boxed(steps, *bounds)
    base: AnyStrategy = fedavg(steps=rule)

    def no_summary(params: Tree) -> Tensor:
        return torch.zeros(surrogate.features, device=trees.flatten(params).device)

    def init(params: Tree) -> Server:  # line 1
        return Server(params, no_summary(params))

    def client_init(params: Tree) -> Memory:
        points = trees.flatten(params).expand(surrogate.memory, -1)
        return Memory(points * 0, points[:, 0] * torch.nan, no_summary(params))

    def broadcast(server: Server, round_num: int) -> Guide:  # line 2
        return Guide(server.params, server.summary, base.broadcast(server, round_num).round_num)

    def local_init(guide: Guide, client: Memory) -> Local:  # line 3
        rule_state, none = rule.init(guide.params, guide.round_num), 0 * guide.round_num
        return Local(guide.params, rule_state, client.points, client.values, none, none)

    def local_step(
        local: Local, batch: Batch, oracle: Oracle, guide: Guide, client: Memory
    ) -> Local:
        fitted = surrogate.fit(local.points, local.values, trees.flatten(local.params))
        turn = (local.taken - looks + 1).clamp(min=1)  # t
        gamma = correction / turn if fade else correction
        others = (guide.summary - client.summary) * client.values.isfinite().any()

        def gradient(y: Tree) -> Tree:  # line 5
            at = trees.flatten(y)
            own = gaussian_process.mean_gradient(fitted, at)
            disparity = gaussian_process.feature_gradient(surrogate.basis(at), others, at)
            return trees.unflatten(own + gamma * disparity, y)

        looking = local.taken < looks
        step = rule.step(local.rule, local.params, gradient)  # line 6
        params, state = trees.where(looking, (local.params, local.rule), step)
        x = trees.flatten(params)
        random = _draw_places(x, batch.key, candidates, radius, bounds)  # lines 3 and 7
        places = random[gaussian_process.most_uncertain(fitted, random, active + 1)]
        queried = torch.stack([torch.where(looking, places[active], x), *places[:active]])
        moved = local._replace(params=params, rule=state, taken=local.taken + 1)
        return _query(moved, queried, batch, oracle, surrogate.memory)

    def local_end(local: Local, guide: Guide, client: Memory) -> tuple[Tree, Memory]:  # line 8
        weights = surrogate.summarise(local.points, local.values, trees.flatten(local.params))
        summary = weights.to(client.summary.dtype)
        diff = trees.subtract(local.params, guide.params)
        sent = diff | trees.add_prefix({"weights": summary}, _PART)
        unanswered = torch.where(local.answers > 0, 0.0, torch.nan)  # NaN: the client is left out
        masked = {name: part + unanswered for name, part in sent.items()}
        return masked, Memory(local.points, local.values, summary)

    def update(server: Server, released: Released) -> Server:  # line 9
        params = trees.add(server.params, released.diff)
        return Server(params, trees.take_part(released.diff, _PART)["weights"])

    return replace(
        base,
        name="fzoos",
        init=init,
        broadcast=broadcast,
        update=update,
        client_init=client_init,
        local_init=local_init,
        local_step=local_step,
        local_end=local_end,
        objection=_needs_moves(looks),
    )


def _draw_places(
    x: Tensor, key: Tensor, count: int, radius: float, bounds: tuple[float, float] | None
) -> Tensor:
    """Random places within `radius` of x in each coordinate, and within the bounds; [count, d]."""
    draws = uniforms(mix(key ^ _PLACES), count * len(x)).reshape(count, -1)
    places = x + radius * (2 * draws - 1).to(x.dtype)
    return places if bounds is None else places.clamp(*bounds)


def _query(local: Local, places: Tensor, batch: Batch, oracle: Oracle, memory: int) -> Local:
    """Query the function at places [1 + q, d]; keep the `memory` most recent points."""
    asked = [oracle.value(trees.unflatten(place, local.params), batch) for place in places]
    values = torch.stack(asked).to(places.dtype)
    return local._replace(
        points=torch.cat([local.points, places])[-memory:],
        values=torch.cat([local.values, values])[-memory:],
        answers=local.answers + values.isfinite().sum(),
    )


def _needs_moves(looks: int) -> Callable[[Scenario], str | None]:
    """The objection to a plan without moves, or to an aggregator that is no mean."""

    def objection(scenario: Scenario) -> str | None:
        if scenario.plan.num_steps(1) <= looks:
            return (
                f"fzoos: the plan must have more steps than looks, {looks}; got "
                f"{scenario.plan.num_steps(1)} of {scenario.plan.name}. Give it more steps."
            )
        return needs_mean("fzoos")(scenario)

    return objection
