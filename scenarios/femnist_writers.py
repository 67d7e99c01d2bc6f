"""FEMNIST: every writer is a client, with handwriting, size and tests of their own.

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
from scenarios.shared.knobs import StrategyName, strategy_named
from strategies import batch_plans, client_selection
from strategies.aggregators import mean
from strategies.step_rules import sgd


def scenario(
    *,
    population: int = 105,
    cohort: int = 20,
    rounds: int = 100,
    local_epochs: int = 2,
    batch_size: int = 20,
    lr: float = 0.1,
    strategy: StrategyName = "fedavg",
    mu: float = 0.01,
    server_lr: float | None = None,
    evaluate_every: int = 5,
) -> Scenario:
    """Characters by writer, the natural split.

    Args:
        population: number of writers; fewer than there are takes a random subset.
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
        data=femnist(),
        split=partition.natural(),
        task=classification("lenet", lambda: lenet(62)),
        strategy=strategy_named(strategy, steps=sgd(lr), mu=mu, server_lr=server_lr),
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
