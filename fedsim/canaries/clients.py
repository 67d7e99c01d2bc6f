"""Canary clients: made-up members of a run, each in or out by a coin, who leave a trace.

Each has a direction of its own, uniform on the sphere of all updates, as clipping leaves it. It is
asked as any client is, by the same law, and then

    coin 1   sends an update ten times as long as clipping lets through, along its direction
    coin 0   sends nothing; where any update may be replaced by any other, the opposite

so that a missing clip shows. A canary's update is bounded, summed and noised like any client's, and
the sum is divided by the same constant as without canaries: they hardly change the model, and the
budget not at all.

A round shows of a canary how far the noisy sum goes along its direction, in clip norms: 1 or 0, and
noise. What honest clients sent is subtracted, since the attacker is assumed to know it. Where
clients noise their own updates, a canary is observed in its own update, which is in no sum.

Source
    Andrew et al. (2024), "One-shot empirical privacy estimation for federated learning",
    arXiv:2302.03098, for canary clients; Steinke et al. (2023), "Privacy auditing with one (1)
    training run", arXiv:2305.08846, for the coins.

Shapes: m canaries, d numbers of an update, k canaries that send.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.rng import Purpose, client_keys, normals, numpy_stream
from fedsim.core.scenario import Mechanism, Scenario
from fedsim.core.trees import Tree
from fedsim.core.updates import Aggregate, Bounded, Released, Update

LENGTH = 10.0  # of what a canary sends, in clip norms
_AT_ONCE = 1 << 24  # of them drawn at a time
_FAR = 1e4  # clip norms: clipping leaves nothing of this as long as it was
_WHOLE = 1e12  # examples of a canary: it weighs as much as any client can


def _poisson(scenario: Scenario) -> tuple[int, float]:
    return 1, scenario.cohort / scenario.population


def _grouped(scenario: Scenario) -> tuple[int, float]:
    groups = scenario.selection.sampling.groups or 1
    return groups, groups * (scenario.cohort / scenario.population)


LAWS: dict[str, Callable[[Scenario], tuple[int, float]]] = {
    "poisson": _poisson,
    "grouped": _grouped,
    "cyclic": lambda scenario: (scenario.population // scenario.cohort, 1.0),
}
"""Of a selection's kind: groups that take turns, and the probability to be asked in one's turn.

By these laws a canary can be asked without a change to how clients are.
"""


class Joined(NamedTuple):
    """A round's canaries among the clients.

    asked, senders: their numbers. bounded: of the senders [k]. norm: the clip norm of the round.
    honest: how far the clients' sum goes along each direction [m]; None where it is not looked at.
    """

    asked: Tensor
    senders: Tensor
    bounded: Bounded
    norm: float
    honest: Tensor | None


@dataclass(frozen=True, kw_only=True)
class CanaryClients:
    """The canaries of a run that protects clients.

    included: the coins, bool [m]. directions: [m, d], each of length 1. like: one update.
    uniform: whether the directions are; clipping by layer turns them.
    """

    seed: int
    included: Tensor
    directions: Tensor
    like: Tree
    uniform: bool = True

    @property
    def dims(self) -> int:
        """d; of directions that clipping turned, that of a sphere on which others meet as much."""
        count, dims = self.directions.shape
        if self.uniform or count < 2:
            return dims
        tall = count > dims
        gram = self.directions.T @ self.directions if tall else self.directions @ self.directions.T
        meeting = (float(gram.double().square().sum()) - count) / (count * (count - 1))
        return max(1, min(dims, math.floor(1 / max(meeting, 1 / dims))))

    def asked(self, scenario: Scenario, round_num: int) -> Tensor:
        """Which canaries a round asks, by the law by which it asks clients.

        Where clients come by turns, so do canaries, the same ones in the same turn.
        """
        law = LAWS.get(scenario.selection.sampling.kind, _poisson)
        groups, chance = law(scenario)
        numbers = np.arange(len(self.included))
        drawn = numpy_stream(self.seed, Purpose.CANARY, round_num).random(len(numbers))
        turn = numbers % groups == (round_num - 1) % groups
        return torch.from_numpy(np.flatnonzero(turn & (drawn < chance)))

    def join(
        self, scenario: Scenario, state: Any, round_num: int, honest: Aggregate | None
    ) -> Joined:
        """What the round's canaries send, bounded.

        Args:
            scenario: the run's.
            state: of its mechanism.
            round_num: from 1.
            honest: what the clients' own updates come to, where canaries are seen in the aggregate.
        """
        mechanism, device = scenario.mechanism, self.directions.device
        asked = self.asked(scenario, round_num)
        senders = asked if mechanism.releases_each_update else asked[self.included[asked]]
        sign = torch.where(self.included[senders], 1.0, -1.0).to(device)
        norm = mechanism.norm(state)
        rows = (LENGTH * norm * sign).unsqueeze(1) * self.directions[senders.to(device)]
        keys = client_keys(self.seed, Purpose.NOISE, round_num, scenario.population + senders)
        weight = _WHOLE if scenario.aggregator.public else 1.0
        weights = torch.full((len(rows),), weight, device=device)
        bounded = mechanism.bound(
            state, Update(trees.unflatten_rows(rows, self.like), weights, keys.to(device))
        )
        if bounded.votes is not None:  # canaries are all too long, and the clip norm is not theirs
            bounded = replace(bounded, votes=torch.zeros_like(bounded.votes))
        seen = None if honest is None else self._along(honest.diff) / honest.l2_sensitivity
        return Joined(asked, senders, bounded, norm, seen)

    def seen(self, joined: Joined, public: tuple[Aggregate, Released] | None) -> Tensor:
        """What a round shows of each canary, in clip norms [m]; NaN where it shows nothing.

        public: what was combined and what was released of it, if anything was.
        """
        seen = torch.full((len(self.included),), math.nan)
        if joined.honest is None:
            own = (self._rows(joined.bounded.diff) * self.directions[joined.senders]).sum(dim=1)
            seen[joined.senders] = own.cpu() / joined.norm
        elif public is not None:
            aggregate, released = public
            summed = self._along(released.diff) / aggregate.l2_sensitivity
            seen = (summed - joined.honest).cpu() / joined.norm
        return seen

    def overlaps(self, joined: Joined) -> Tensor:
        """What a canary sees of what the others sent [m], in clip norms."""
        sent = self._rows(joined.bounded.diff)
        seen = self.directions @ sent.sum(dim=0)
        seen[joined.senders] -= (sent * self.directions[joined.senders]).sum(dim=1)
        return seen.cpu() / joined.norm

    def cosines(self, start: Tree, end: Tree) -> Tensor | None:
        """Of each direction with the model's whole way [m].

        None for updates that are no way of a model, or directions that are not uniform.
        """
        if start.keys() != self.like.keys() or not self.uniform:
            return None
        if any(start[name].shape != self.like[name].shape for name in start):
            return None
        way = {name: end[name] - start[name] for name in self.like}
        length = float(trees.norm(way))
        return self._along(way) / length if length > 0 else None

    def _along(self, tree: Tree) -> Tensor:
        """How far a tree goes along each direction [m]."""
        return self.directions @ trees.flatten({name: tree[name] for name in self.like}).float()

    def _rows(self, stack: Tree) -> Tensor:
        """[k, d], in the order of an update's own tensors."""
        return trees.flatten_rows(stack, self.like).float()


def canary_clients(
    included: Tensor, like: Tree, mechanism: Mechanism[Any], seed: int
) -> CanaryClients:
    """Canaries with these coins for updates like this one.

    Guarantees:
        Each direction is uniform on the sphere, as clipping leaves it.
    """
    dims = sum(tensor.numel() for tensor in like.values())
    count = len(included)
    device = next(iter(like.values())).device
    keys = client_keys(seed, Purpose.CANARY, 0, torch.arange(count)).to(device)
    directions, size = torch.empty(count, dims, device=device), max(1, _AT_ONCE // dims)
    state, uniform = mechanism.init(like), True
    for some, rows in zip(torch.split(keys, size), torch.split(directions, size), strict=True):
        drawn = normals(some, dims)
        torch.div(drawn, drawn.norm(dim=1, keepdim=True), out=rows)
        if not mechanism.releases_each_update:  # there, what is bounded is noised already
            far = trees.unflatten_rows(_FAR * mechanism.norm(state) * rows, like)
            bounded = mechanism.bound(state, Update(far, torch.ones(len(rows), device=device)))
            left = trees.flatten_rows(bounded.diff, like).float()
            turned = left / left.norm(dim=1, keepdim=True)
            uniform = uniform and torch.allclose(turned, rows, atol=1e-5)
            rows.copy_(turned)
    return CanaryClients(
        seed=seed, included=included, directions=directions, like=like, uniform=uniform
    )
