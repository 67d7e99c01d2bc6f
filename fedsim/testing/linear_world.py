"""A world in which a unit contributes what its data are, for tests of mechanisms.

An example's loss is <parameters, x>, so that its gradient is the example itself, and the update of
a client that has one example is that example with the other sign. Everyone takes part in one step.

Shapes: n units, d = DIMS numbers of all parameters together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.ledger import Entry
from fedsim.core.scenario import Mechanism, Scenario
from fedsim.core.settings import Settings
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.server.round import ServerState, begin, finish_round, ledger_entries
from fedsim.server.setup import PreparedRun, prepare
from fedsim.server.transport import Work
from fedsim.testing.world import direct
from fedsim.world import partition
from strategies import batch_plans, client_selection, fedavg
from strategies.aggregators import mean, public_mean
from strategies.step_rules import sgd

SHAPES = {"body.weight": (6, 4), "body.bias": (6,), "head.weight": (3,), "scale": ()}
DIMS = 34
ROUNDS = 6


@dataclass(frozen=True)
class Release:
    """What a round released. model: [d], float64. held: what the server keeps after it."""

    model: Tensor
    entries: tuple[Entry, ...]
    held: ServerState


def linear_task(shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> Task:
    """A loss that is linear in the parameters, all of which start at zero."""

    def loss(params: Tree, batch: Any, penalty: Any = None) -> Tensor:
        found: Tensor = (batch.x * torch.cat([p.flatten() for p in params.values()])).sum(dim=1)
        return found

    return Task(
        name="linear",
        init=lambda seed: {name: torch.zeros(shape) for name, shape in shapes.items()},
        loss=loss,
        stacked_loss=None,
        predict=lambda params, x: x,
        features=lambda params, x: x,
        loss_of=lambda logits, y: logits,
        convolutional=False,
    )


def linear_world(mechanism: Mechanism[Any], contributions: Tensor, seed: int = 1) -> PreparedRun:
    """A run of units with these contributions [n, d], ready for round 1.

    Clients come by Poisson sampling, or in turn, or as cohorts of fixed size, and batches by
    Poisson sampling or in order: by the first of these that the mechanism accepts.

    Raises:
        PrivacyError: the mechanism accepts none of them; the reason is its own, of the first.
    """
    n = len(contributions)
    sizes = (n,) if mechanism.canaries == "examples" else (1,) * n
    examples = Examples(contributions, torch.zeros(n, dtype=torch.int64))
    dataset = Dataset(name="linear", train=examples, test=examples, num_classes=1)
    common: dict[str, Any] = {
        "data": Source(name="linear", load=lambda _: dataset),
        "split": partition.given(np.repeat(np.arange(len(sizes)), sizes)),
        "task": linear_task(),
        "strategy": fedavg(steps=sgd(1.0)),
        "mechanism": mechanism,
        "population": len(sizes),
        "cohort": len(sizes),
        "rounds": ROUNDS,
    }
    scenarios = [Scenario(**common, **parts) for parts in _choices(mechanism, n)]
    accepted = [one for one in scenarios if mechanism.objection(one) is None]
    settings = Settings(seed=seed, width=len(sizes), workers=1, device="cpu")
    return prepare((accepted or scenarios)[0], settings)


def _choices(mechanism: Mechanism[Any], n: int) -> list[dict[str, Any]]:
    """Parts of a scenario in which everyone takes part, in all the ways that there are."""
    if mechanism.canaries == "examples":
        plans = (
            batch_plans.poisson_batches(steps=1, sampling_prob=1.0),
            batch_plans.ordered_epochs(epochs=1, batch_size=n),
        )
        kept = {"selection": client_selection.uniform(), "aggregator": mean("uniform")}
        return [{"plan": plan, **kept} for plan in plans]
    selections = (client_selection.poisson(), client_selection.cyclic(), client_selection.uniform())
    plan = batch_plans.shuffled_epochs(epochs=1, batch_size=1)
    return [
        {"plan": plan, "selection": selection, "aggregator": public_mean()}
        for selection in selections
    ]


def release_round(
    prepared: PreparedRun,
    held: ServerState | None = None,
    round_num: int = 1,
    clients: list[int] | None = None,
) -> Release:
    """A round of these clients, by the run's own code; all of them by default."""
    held = begin(prepared) if held is None else held
    everyone = list(range(prepared.scenario.population))
    cohort = everyone if clients is None else clients
    work = Work(
        round_num=round_num,
        broadcast=prepared.scenario.strategy.broadcast(held.strategy, round_num),
        clients=cohort,
        accepted={},
        entries=ledger_entries(prepared, held, round_num, cohort),
    )
    outcome = finish_round(prepared, held, work, direct(prepared)(work))
    model = flatten_exactly(prepared.scenario.strategy.params(outcome.state.strategy))
    return Release(model, work.entries, outcome.state)


def flatten_exactly(tree: Tree) -> Tensor:
    """A tree as one vector in double precision."""
    return trees.flatten(tree).to(torch.float64)


def random_unit(seed: int) -> Tensor:
    """A contribution [d] of a random direction and of any length from 0.01 to 100."""
    stream = torch.Generator().manual_seed(seed)
    length = 10 ** (4 * torch.rand((), generator=stream) - 2)
    return torch.randn(DIMS, generator=stream) * length / math.sqrt(DIMS)
