"""The published CIFAR-10 benchmark of pfl-research: 1,000 clients of 50 images, cohorts of 50.

World      CIFAR-10, IID, no augmentation, everyone alike in the mean, one local epoch
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
from scenarios.shared.knobs import StrategyName, strategy_named
from strategies import batch_plans, client_selection
from strategies.aggregators import mean
from strategies.step_rules import sgd


def scenario(
    *,
    population: int = 1000,
    cohort: int = 50,
    rounds: int = 1500,
    local_epochs: int = 1,
    batch_size: int = 10,
    lr: float = 0.1,
    strategy: StrategyName = "fedavg",
    mu: float = 0.01,
    server_lr: float | None = None,
    evaluate_every: int = 10,
) -> Scenario:
    """The pfl-research CIFAR-10 benchmark.

    Args:
        population: number of clients.
        cohort: clients a round.
        rounds: server steps.
        local_epochs: passes of a client over its data in a round.
        batch_size: examples a local step.
        lr: the clients' learning rate.
        strategy: the algorithm.
        mu: proximal term of fedprox.
        server_lr: the server's learning rate; left out, the strategy's own.
        evaluate_every: rounds from one evaluation to the next.
    """
    return Scenario(
        data=cifar10(),
        split=partition.iid(),
        task=classification("pfl_cnn", pfl_cnn),
        strategy=strategy_named(strategy, steps=sgd(lr), mu=mu, server_lr=server_lr),
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
