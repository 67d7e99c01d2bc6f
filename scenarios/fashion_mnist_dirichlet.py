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
from scenarios.shared.knobs import (
    AggregatorName,
    AttackName,
    OrderName,
    SelectionName,
    StepName,
    StrategyName,
    Weights,
    aggregator_named,
    attack_named,
    plan_named,
    selection_named,
    steps_named,
    strategy_named,
)


def scenario(
    *,
    alpha: float = 0.3,
    population: int = 200,
    cohort: int = 20,
    rounds: int = 30,
    local_epochs: int = 2,
    batch_size: int = 16,
    lr: float = 0.1,
    strategy: StrategyName = "fedavg",
    order: OrderName = "shuffled",
    selection: SelectionName = "uniform",
    step_rule: StepName = "sgd",
    mu: float = 0.01,
    server_lr: float | None = None,
    weights: Weights = "examples",
    aggregator: AggregatorName = "mean",
    byzantine: int = 0,
    attack: AttackName = "none",
    attackers: int = 0,
    attack_strength: float | None = None,
    evaluate_every: int = 5,
) -> Scenario:
    """Fashion-MNIST over clients with unlike labels.

    Args:
        alpha: Dirichlet concentration of the label split; small is less alike.
        population: number of clients.
        cohort: clients a round.
        rounds: server steps.
        local_epochs: passes of a client over its data in a round.
        batch_size: examples a local step.
        lr: the clients' learning rate.
        strategy: the algorithm.
        order: in which order clients see their examples; the last three are paced curricula.
        selection: who takes part; curriculum has the easiest clients first.
        step_rule: how clients step; delta_sgd finds its own learning rate.
        mu: proximal term of fedprox.
        server_lr: the server's learning rate; left out, the strategy's own.
        weights: how clients count in the mean.
        aggregator: how the server combines updates.
        byzantine: attackers a round that a robust aggregator is made for.
        attack: what the attackers do.
        attackers: how many of the population attack.
        attack_strength: scale of sign_flip, z of little_is_enough, epsilon of inner_product; left
            out, the attack's own.
        evaluate_every: rounds from one evaluation to the next.
    """
    return Scenario(
        data=fashion_mnist(),
        split=partition.dirichlet(alpha),
        task=classification("lenet", lambda: lenet(10)),
        strategy=strategy_named(
            strategy, steps=steps_named(step_rule, lr=lr), mu=mu, server_lr=server_lr
        ),
        plan=plan_named(order, epochs=local_epochs, batch_size=batch_size),
        selection=selection_named(selection),
        aggregator=aggregator_named(aggregator, weights=weights, byzantine=byzantine),
        mechanism=none(),
        population=population,
        cohort=cohort,
        rounds=rounds,
        evaluate_every=evaluate_every,
        attack=attack_named(attack, attackers=attackers, strength=attack_strength),
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
