"""The published CIFAR-10 benchmark of pfl-research: 1,000 clients of 50 images, cohorts of 50.

World      CIFAR-10, IID, no augmentation, clients weighted equally, one local epoch
Model      conv-conv-pool-dropout-dense-dropout-dense, 1,626,442 parameters
Source     Granqvist et al. (2024), "pfl-research", arXiv:2404.06430; 1,500 rounds there
Needs      cifar10/ in --data-dir, hub parquet files or cifar-10-batches-py
"""

from __future__ import annotations

from fedsim.core.scenario import Scenario
from fedsim.data import cifar10
from fedsim.models.tasks import classification
from fedsim.models.vision import pfl_cnn
from fedsim.world import partition
from privacy import none
from scenarios.shared import knobs
from strategies import batch_plans, client_selection
from strategies.aggregators import mean
from strategies.step_rules import sgd


def scenario(
    *,
    population: knobs.Population = 1000,
    cohort: knobs.Cohort = 50,
    rounds: knobs.Rounds = 1500,
    local_epochs: knobs.LocalEpochs = 1,
    batch_size: knobs.BatchSize = 10,
    lr: knobs.LearningRate = 0.1,
    strategy: knobs.StrategyName = "fedavg",
    mu: knobs.Mu = 0.01,
    server_lr: knobs.ServerLearningRate = None,
    evaluate_every: knobs.EvaluateEvery = 10,
) -> Scenario:
    """The pfl-research CIFAR-10 benchmark."""
    return Scenario(
        data=cifar10(),
        split=partition.iid(),
        task=classification("pfl_cnn", pfl_cnn),
        strategy=knobs.strategy_named(strategy, steps=sgd(lr), mu=mu, server_lr=server_lr),
        plan=batch_plans.shuffled_epochs(epochs=local_epochs, batch_size=batch_size),
        selection=client_selection.uniform(),
        aggregator=mean("uniform"),
        mechanism=none(),
        population=population,
        cohort=cohort,
        rounds=rounds,
        evaluate_every=evaluate_every,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
