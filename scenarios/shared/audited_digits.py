"""Two small scenarios for audits: client-level privacy, and example-level privacy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedsim.core.sampling import Selection
from fedsim.core.scenario import Aggregator, BatchPlan, Mechanism, Scenario
from fedsim.data import digits
from fedsim.models.tasks import classification
from fedsim.models.vision import mlp
from fedsim.world import partition
from strategies import batch_plans, client_selection, fedavg
from strategies.aggregators import public_mean
from strategies.step_rules import sgd

CLIENTS, COHORT = 100, 20  # under client-level privacy
SILOS = 8  # clients under example-level privacy
SAMPLING_PROB = 0.25  # of an example in a step, one step a round


def client_level(
    mechanism: Mechanism[Any],
    *,
    rounds: int,
    canaries: int,
    selection: Selection[Any] | None = None,
    cohort: int = COHORT,
    aggregator: Aggregator[Any] | None = None,
) -> Scenario:
    """Digits over a hundred clients, Poisson cohorts of twenty on average; canaries are clients."""
    base = _digits(mechanism, rounds, canaries, lr=0.3)
    return replace(
        base,
        plan=batch_plans.shuffled_epochs(epochs=2, batch_size=5),
        selection=selection or client_selection.poisson(),
        aggregator=aggregator or base.aggregator,
        population=CLIENTS,
        cohort=cohort,
    )


def example_level(
    mechanism: Mechanism[Any], *, rounds: int, canaries: int, plan: BatchPlan | None = None
) -> Scenario:
    """Digits over eight clients, all of them in every round; canaries are examples."""
    base = _digits(mechanism, rounds, canaries, lr=1.0)
    return base if plan is None else replace(base, plan=plan)


def _digits(mechanism: Mechanism[Any], rounds: int, canaries: int, lr: float) -> Scenario:
    return Scenario(
        data=digits(),
        split=partition.iid(),
        task=classification("mlp", lambda: mlp(64, 32, 10)),
        strategy=fedavg(steps=sgd(lr)),
        plan=batch_plans.poisson_batches(steps=1, sampling_prob=SAMPLING_PROB),
        selection=client_selection.uniform(),
        aggregator=public_mean(),
        mechanism=mechanism,
        population=SILOS,
        cohort=SILOS,
        rounds=rounds,
        evaluate_every=5,
        canaries=canaries,
    )
