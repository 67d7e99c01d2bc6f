"""FZooS: clients learn the slope of a black box from all that they ever asked it.

Paper
    Shu, Lin, Dai, Low. "Federated Zeroth-Order Optimization using Trajectory-Informed Surrogate
    Gradients". 2023. arXiv:2308.04077, Algorithm 2.

Notation
    x guide.params    x_t local.params    D_i client.points, client.values    mu_i their fit
    w_i client.summary    wbar guide.summary    gamma correction    T steps that move
    L steps that look around    q active

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
    places near x: of some random ones, within `radius` of x in each coordinate, those where the
    gradient of mu_i is least certain

Deviations
    There is one exchange in a round, not two: the paper's clients look around the new x and send
    w_i after it, ours look around it when the next round starts (line 3), and w_i is of before.
    The first round's line 3 is the initial design (10 points in the paper: two looks with q = 5).
    D_i is the most recent `memory` points (the code keeps the nearest 150).  The kernel is the
    squared exponential with a fixed length scale, and its gradient analytic; the code fits a
    Matern kernel and differs numerically.  Line 6 projects.  A client that has never sent a
    summary is not corrected.  The server does not ask for F to reject an x.  With fade = False the
    whole correction is used in every step (gamma for gamma / t), as in SCAFFOLD.
"""

from __future__ import annotations

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
from strategies.step_rules import boxed

_PLACES = 0xAC71  # what tells a step's places from its other draws
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

    taken: steps so far, [];  answers: how many queries of this round were answered, [].
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
    memory: int = 150,
    features: int = 10_000,
    length_scale: float = 1.0,
    noise: float = 1e-6,
    seed: int = 0,
) -> AnyStrategy:
    """Federated zeroth-order optimisation with trajectory-informed surrogate gradients.

    A step of the batch plan is a look or a move: the plan needs more than `looks` of them. Every
    step asks for 1 + active values.

    Args:
        steps: how a client moves (line 6); Adam with lr 0.01 in the paper.
        bounds: the least and largest value of every parameter; None where there are none.
        looks: L, steps of a round that look around before the first that moves.
        active: q, places asked beside the point itself.
        candidates: random places from which these are taken.
        radius: how far from x_t, in each coordinate, they may be.
        correction: gamma; 0 leaves every client to itself.
        fade: whether gamma is divided by t, as in the paper's practice.
        memory: n, the most points that a client keeps.
        features: M; a client sends d + M numbers.
        length_scale: l; a usual way of a client in a round should be no longer.
        noise: variance of the values' noise, as a share of the variance of the values.
        seed: of the random features, the same for everybody.

    Raises:
        InputError: a value is out of its range.

    Guarantees:
        A client asks T (1 + active) + looks (1 + active) queries a round, neither more nor less.
        Clients with the same memory are not corrected.
        With correction = 0 a client's work does not depend on the others.
        A query without a finite answer is dropped; a client without any is left out.
    """
    at_least("fzoos", 0, "Use 2.", looks=looks)
    at_least("fzoos", 1, "Use 5.", active=active)
    at_least("fzoos", active + 1, "Use 100.", candidates=candidates)
    at_least("fzoos", active + 1, "Use 150.", memory=memory)
    at_least("fzoos", 1, "Use 10000.", features=features)
    positive(
        "fzoos", "Use 0.01, 1 and 1e-6.", radius=radius, length_scale=length_scale, noise=noise
    )
    non_negative("fzoos", "Use 1, or 0 for none.", correction=correction)
    rule = steps if bounds is None else boxed(steps, *bounds)
    base: AnyStrategy = fedavg(steps=rule)

    def shared(x: Tensor) -> gaussian_process.Features:
        return gaussian_process.features(len(x), features, length_scale, seed, x.device)

    def empty(params: Tree, count: int) -> Tensor:
        return torch.zeros(count, device=trees.flat(params).device)

    def init(params: Tree) -> Server:  # line 1
        return Server(params, empty(params, features))

    def client_init(params: Tree) -> Memory:
        points = trees.flat(params).expand(memory, -1)
        return Memory(points * 0, points[:, 0] * torch.nan, empty(params, features))

    def broadcast(server: Server, round_num: int) -> Guide:  # line 2
        return Guide(server.params, server.summary, base.broadcast(server, round_num).round_num)

    def local_init(guide: Guide, client: Memory) -> Local:  # line 3
        rule_state, none = rule.init(guide.params, guide.round_num), 0 * guide.round_num
        return Local(guide.params, rule_state, client.points, client.values, none, none)

    def local_step(
        local: Local, batch: Batch, oracle: Oracle, guide: Guide, client: Memory
    ) -> Local:
        here = trees.flat(local.params)
        seen = gaussian_process.fit(
            local.points, local.values, origin=here, length_scale=length_scale, noise=noise
        )
        looking = local.taken < looks
        turn = (local.taken - looks + 1).clamp(min=1)  # t
        gamma = correction / turn if fade else correction
        others = (guide.summary - client.summary) * client.values.isfinite().any()

        def gradient(y: Tree) -> Tree:  # line 5
            at = trees.flat(y)
            turned = gaussian_process.embedded_slope(shared(at), others, at)
            return trees.shaped(gaussian_process.slope(seen, at) + gamma * turned, y)

        step = rule.step(local.rule, local.params, gradient)  # line 6
        params, state = trees.chosen(looking, (local.params, local.rule), step)
        x = trees.flat(params)
        places = near(x, batch.key, seen)  # lines 3 and 7
        asked = [torch.where(looking, places[active], x), *places[:active]]
        values = [oracle.value(trees.shaped(place, params), batch) for place in asked]
        heard = torch.stack(values).to(x.dtype)
        return Local(
            params,
            state,
            points=torch.cat([local.points, torch.stack(asked)])[-memory:],
            values=torch.cat([local.values, heard])[-memory:],
            taken=local.taken + 1,
            answers=local.answers + heard.isfinite().sum(),
        )

    def near(x: Tensor, key: Tensor, seen: gaussian_process.Fit) -> Tensor:
        """The 1 + active most doubtful of some random places near x, [1 + active, d]."""
        draws = uniforms(mix(key ^ _PLACES), candidates * len(x)).reshape(candidates, -1)
        places = x + radius * (2 * draws - 1).to(x.dtype)
        if bounds is not None:
            places = places.clamp(*bounds)
        return places[gaussian_process.most_doubtful(seen, places, active + 1)]

    def local_end(local: Local, guide: Guide, client: Memory) -> tuple[Tree, Memory]:  # line 8
        place = trees.flat(local.params)
        found = gaussian_process.summarise(shared(place), local.points, local.values, noise=noise)
        summary = found.to(client.summary.dtype)
        sent = trees.subtract(local.params, guide.params) | trees.named({"weights": summary}, _PART)
        silent = torch.where(local.answers > 0, 0.0, torch.nan)
        return (
            {name: part + silent for name, part in sent.items()},
            Memory(local.points, local.values, summary),
        )

    def update(server: Server, released: Released) -> Server:  # line 9
        params = trees.add(server.params, released.diff)
        return Server(params, trees.part_of(released.diff, _PART)["weights"])

    def objection(scenario: Scenario) -> str | None:
        if scenario.plan.num_steps(1) <= looks:
            return (
                f"fzoos: the plan must have more steps than looks, {looks}; got "
                f"{scenario.plan.num_steps(1)} of {scenario.plan.name}. Give it more steps."
            )
        return needs_mean("fzoos")(scenario)

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
        objection=objection,
    )
