"""Fashion-MNIST split by Dirichlet label shares, a LeNet-like network of 44,426 parameters.

World      60,000 images over `population` clients; test on the 10,000 published test images
Source     the split of Hsu, Qi, Brown (2019), arXiv:1909.06335
Needs      fashion_mnist/ in --data-dir, the four .gz files as published
"""

from __future__ import annotations

from fedsim.core.scenario import Scenario
from fedsim.data import fashion_mnist
from fedsim.models.tasks import classification
from fedsim.models.vision import lenet
from fedsim.world import partition
from privacy import none
from scenarios.shared import knobs


def scenario(
    *,
    alpha: knobs.Alpha = 0.3,
    population: knobs.Population = 200,
    cohort: knobs.Cohort = 20,
    rounds: knobs.Rounds = 30,
    local_epochs: knobs.LocalEpochs = 2,
    batch_size: knobs.BatchSize = 16,
    lr: knobs.LearningRate = 0.1,
    strategy: knobs.StrategyName = "fedavg",
    order: knobs.OrderName = "shuffled",
    selection: knobs.SelectionName = "uniform",
    step_rule: knobs.StepName = "sgd",
    mu: knobs.Mu = 0.01,
    server_lr: knobs.ServerLearningRate = None,
    weights: knobs.Weights = "examples",
    aggregator: knobs.AggregatorName = "mean",
    byzantine: int = 0,
    attack: knobs.AttackName = "none",
    attackers: int = 0,
    attack_strength: float | None = None,
    evaluate_every: knobs.EvaluateEvery = 5,
) -> Scenario:
    """Fashion-MNIST over clients with different label distributions.

    Args:
        byzantine: attackers a round that a robust aggregator is made for.
        attackers: how many of the population attack.
        attack_strength: scale of sign_flip, z of little_is_enough, epsilon of inner_product; left
            out, the attack's own.
    """
    return Scenario(
        data=fashion_mnist(),
        split=partition.dirichlet(alpha),
        task=classification("lenet", lambda: lenet(10)),
        strategy=knobs.strategy_named(
            strategy, steps=knobs.steps_named(step_rule, lr=lr), mu=mu, server_lr=server_lr
        ),
        plan=knobs.plan_named(order, epochs=local_epochs, batch_size=batch_size),
        selection=knobs.selection_named(selection),
        aggregator=knobs.aggregator_named(aggregator, weights=weights, byzantine=byzantine),
        mechanism=none(),
        population=population,
        cohort=cohort,
        rounds=rounds,
        evaluate_every=evaluate_every,
        attack=knobs.attack_named(attack, attackers=attackers, strength=attack_strength),
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
