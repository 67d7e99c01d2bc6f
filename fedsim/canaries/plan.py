"""Canaries in a run: whether they can be, how they are drawn, and what a run folder says of them.

All comes from the stream (seed, CANARY): coins once, turns in every round.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedsim.canaries.clients import LAWS, CanaryClients, canary_clients
from fedsim.canaries.examples import CanaryExamples, canary_examples
from fedsim.canaries.probe import probe
from fedsim.core.errors import InputError, PrivacyError, at_least
from fedsim.core.rng import Purpose, numpy_stream
from fedsim.core.scenario import BatchPlan, Scenario
from fedsim.core.trees import Tree
from fedsim.world.population import Population

Canaries = CanaryClients | CanaryExamples
_MOST = 1 << 29  # numbers of all canaries together
_STEPS = 4  # of each trial of the mechanism's steps; noise may be correlated


class RoundObservation(NamedTuple):
    """The observations of canaries in one round.

    asked: their numbers. seen: [m], NaN where nothing is. overlaps: what of that is other canaries'
    [m], where they see each other.
    """

    asked: list[int]
    seen: Tensor
    overlaps: Tensor | None = None

    def row(self, round_num: int) -> dict[str, Any]:
        """A line of `canaries.jsonl`."""
        seen = [None if value != value else value for value in _rounded(self.seen)]
        row = {"round": round_num, "asked": self.asked, "seen": seen}
        return row if self.overlaps is None else row | {"overlaps": _rounded(self.overlaps)}


def canary_objection(scenario: Scenario) -> str | None:
    """Why a scenario cannot have the canaries that it asks for, or None.

    Raises:
        InputError: their number is below 0.
    """
    at_least("run", 0, "Leave it out for none.", canaries=scenario.canaries)
    sampling, mechanism = scenario.selection.sampling, scenario.mechanism
    if not scenario.canaries:
        return None
    if mechanism.canaries == "none":
        return (
            f"run: canaries must be left out where nothing is private; got {scenario.canaries}. "
            "There is no claim to audit."
        )
    in_the_sum = mechanism.canaries == "clients" and not mechanism.releases_each_update
    if in_the_sum and (sampling.kind not in LAWS or sampling.most is not None):
        return (
            f"run: canaries must come by a law that leaves the clients' alone; got selection "
            f"{scenario.selection.name}. Use poisson without a limit, poisson_groups or cyclic."
        )
    return None


def draw(scenario: Scenario, population: Population, like: Tree, seed: int) -> Canaries | None:
    """A scenario's canaries; None where it has none. like: one update.

    Raises:
        InputError: they would not fit in memory.
        PrivacyError: examples have no classes, or more of them make epochs longer.
    """
    if not scenario.canaries:
        return None
    whole = scenario.mechanism.canaries == "clients"
    each = (
        sum(t.numel() for t in like.values()) if whole else population.dataset.train.x[:1].numel()
    )
    if scenario.canaries * each > _MOST:
        what = "updates" if whole else "examples"
        raise InputError(
            f"run: canaries must be at most {_MOST // each} for {what} of {each} numbers; got "
            f"{scenario.canaries}. Use fewer."
        )
    included = torch.from_numpy(numpy_stream(seed, Purpose.CANARY).random(scenario.canaries) < 0.5)
    if whole:
        return canary_clients(included, like, scenario.mechanism, seed)
    made = canary_examples(included, population, seed)
    _refuse_longer_epochs(scenario.plan, population, made)
    return made


def _refuse_longer_epochs(plan: BatchPlan, population: Population, made: CanaryExamples) -> None:
    """More steps would be charged for: that is another claim than the one to be audited."""
    more = torch.bincount(made.clients, minlength=population.size)
    for count, own in zip(population.owned.counts().tolist(), more.tolist(), strict=True):
        if own and plan.num_steps(count + own) != plan.num_steps(count):
            raise PrivacyError(
                f"run: canaries must leave the number of a client's steps alone; got {plan.name}, "
                f"by which {own} more than {count} examples take longer. Use poisson_batches, or "
                "batches of all that a client has and more."
            )


def record(canaries: Canaries, scenario: Scenario, seed: int) -> dict[str, Any]:
    """The content of `canaries.json` before the first round.

    Where examples are protected, the mechanism's own steps are watched, with a canary and without.
    """
    mechanism, steps = scenario.mechanism, min(_STEPS, scenario.rounds)
    of_examples = isinstance(canaries, CanaryExamples)
    watched = probe(mechanism, seed, steps=steps) if of_examples else None
    return {
        "unit": mechanism.unit,
        "relation": "replace" if mechanism.releases_each_update else "zero_out",
        "included": canaries.included.to(torch.int64).tolist(),
        "dims": canaries.dims if isinstance(canaries, CanaryClients) else None,
        "cosines": None,
        "probe": None
        if watched is None
        else {"inside": _rounded(watched.inside), "outside": _rounded(watched.outside)},
    }


def in_the_end(canaries: Canaries, scenario: Scenario, start: Tree, end: Tree) -> dict[str, Any]:
    """What the model's whole way adds to `canaries.json`. start, end: its parameters."""
    cosines = None
    if isinstance(canaries, CanaryClients) and not scenario.mechanism.releases_each_update:
        cosines = canaries.cosines(start, end)
    return {"cosines": None if cosines is None else _rounded(cosines)}


def _rounded(values: Tensor) -> Any:
    """Six digits are more than noise leaves."""
    return (values.double() * 1e6).round().div(1e6).tolist()
