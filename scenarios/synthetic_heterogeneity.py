"""FedProx's synthetic(alpha, beta): heterogeneity of labelling rules and of inputs, as two knobs.

World      30 devices, 60 inputs, 10 classes, sizes with a long tail; a tenth of each are its tests
Model      softmax regression
Source     Li et al. (2020), arXiv:1812.06127, section 5 (10 devices a round, lr 0.01, batch 10)
"""

from __future__ import annotations

from fedsim.core.scenario import Scenario
from fedsim.data import synthetic
from fedsim.models.tasks import classification
from fedsim.models.vision import softmax_regression
from fedsim.world import partition
from privacy import none
from scenarios.shared import knobs
from strategies import batch_plans, client_selection
from strategies.aggregators import mean
from strategies.step_rules import sgd


def scenario(
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    population: knobs.Population = 30,
    cohort: knobs.Cohort = 10,
    rounds: knobs.Rounds = 100,
    local_epochs: knobs.LocalEpochs = 20,
    batch_size: knobs.BatchSize = 10,
    lr: knobs.LearningRate = 0.01,
    strategy: knobs.StrategyName = "fedprox",
    mu: knobs.Mu = 1.0,
    server_lr: knobs.ServerLearningRate = None,
    data_seed: int = 0,
) -> Scenario:
    """Synthetic clients, each with its own labelling rule.

    Args:
        alpha: spread of the rules' means; it cancels in the labels (see fedsim/data/synthetic.py).
        beta: how much the clients' inputs differ.
        data_seed: which draw of the clients.
    """
    return Scenario(
        data=synthetic(alpha=alpha, beta=beta, population=population, seed=data_seed),
        split=partition.natural(),
        task=classification("softmax", lambda: softmax_regression(60, 10)),
        strategy=knobs.strategy_named(strategy, steps=sgd(lr), mu=mu, server_lr=server_lr),
        plan=batch_plans.shuffled_epochs(epochs=local_epochs, batch_size=batch_size),
        selection=client_selection.uniform(),
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
