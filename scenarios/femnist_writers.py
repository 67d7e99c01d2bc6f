"""FEMNIST: each writer is a client, with its own handwriting, number of examples and test set.

World      62 characters; the writers in the files (105 in the subset that ships as parquet)
Model      the LeNet-like network with 62 outputs
Source     Caldas et al. (2018), LEAF, arXiv:1812.01097
Needs      femnist/ in --data-dir, parquet files or LEAF's JSON shards
"""

from __future__ import annotations

from fedsim.core.scenario import Scenario
from fedsim.data import femnist
from fedsim.models.tasks import classification
from fedsim.models.vision import lenet
from fedsim.world import partition
from privacy import none
from scenarios.shared import knobs
from strategies import batch_plans, client_selection
from strategies.aggregators import mean
from strategies.step_rules import sgd


def scenario(
    *,
    population: int = 105,
    cohort: knobs.Cohort = 20,
    rounds: knobs.Rounds = 100,
    local_epochs: knobs.LocalEpochs = 2,
    batch_size: knobs.BatchSize = 20,
    lr: knobs.LearningRate = 0.1,
    strategy: knobs.StrategyName = "fedavg",
    mu: knobs.Mu = 0.01,
    server_lr: knobs.ServerLearningRate = None,
    evaluate_every: knobs.EvaluateEvery = 5,
) -> Scenario:
    """Characters by writer, the natural split.

    Args:
        population: number of writers; fewer than there are takes a random subset.
    """
    return Scenario(
        data=femnist(),
        split=partition.natural(),
        task=classification("lenet", lambda: lenet(62)),
        strategy=knobs.strategy_named(strategy, steps=sgd(lr), mu=mu, server_lr=server_lr),
        plan=batch_plans.shuffled_epochs(epochs=local_epochs, batch_size=batch_size),
        selection=client_selection.uniform(),
        aggregator=mean(),
        mechanism=none(),
        population=population,
        cohort=cohort,
        rounds=rounds,
        evaluate_every=evaluate_every,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
