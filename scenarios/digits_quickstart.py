"""Scikit-learn's digits over 240 very heterogeneous clients; no download, well under a minute.

World      1,438 images of 8x8, split by Dirichlet(alpha) label shares; about six a client
Model      one hidden layer of 64 units
Lesson     heterogeneous labels slow FedAvg down, and a good mean hides clients with low accuracy
"""

from __future__ import annotations

from fedsim.core.scenario import Scenario
from fedsim.data import digits
from fedsim.models.tasks import classification
from fedsim.models.vision import mlp
from fedsim.world import partition
from privacy import none
from scenarios.shared import knobs
from strategies.aggregators import mean


def scenario(
    *,
    alpha: knobs.Alpha = 0.3,
    population: knobs.Population = 240,
    cohort: knobs.Cohort = 40,
    rounds: knobs.Rounds = 60,
    local_epochs: knobs.LocalEpochs = 5,
    batch_size: knobs.BatchSize = 5,
    lr: knobs.LearningRate = 0.1,
    strategy: knobs.StrategyName = "fedavg",
    order: knobs.OrderName = "shuffled",
    selection: knobs.SelectionName = "uniform",
    step_rule: knobs.StepName = "sgd",
    mu: knobs.Mu = 0.1,
    server_lr: knobs.ServerLearningRate = None,
) -> Scenario:
    """Digits over many small heterogeneous clients."""
    return Scenario(
        data=digits(),
        split=partition.dirichlet(alpha),
        task=classification("mlp", lambda: mlp(64, 64, 10)),
        strategy=knobs.strategy_named(
            strategy, steps=knobs.steps_named(step_rule, lr=lr), mu=mu, server_lr=server_lr
        ),
        plan=knobs.plan_named(order, epochs=local_epochs, batch_size=batch_size),
        selection=knobs.selection_named(selection),
        aggregator=mean(),
        mechanism=none(),
        population=population,
        cohort=cohort,
        rounds=rounds,
        evaluate_every=2,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
