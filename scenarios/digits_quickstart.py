"""Scikit-learn's digits over 240 very unlike clients; no download, well under a minute.

World      1,438 images of 8x8 dealt by Dirichlet(alpha) label shares; a client has six or so
Model      one hidden layer of 64 units
Lesson     non-IID data slow FedAvg down, and a few clients pay for the mean
"""

from __future__ import annotations

from fedsim.core.scenario import Scenario
from fedsim.data import digits
from fedsim.models.tasks import classification
from fedsim.models.vision import mlp
from fedsim.world import partition
from privacy import none
from scenarios.shared.knobs import (
    OrderName,
    SelectionName,
    StepName,
    StrategyName,
    plan_named,
    selection_named,
    steps_named,
    strategy_named,
)
from strategies.aggregators import mean


def scenario(
    *,
    alpha: float = 0.3,
    population: int = 240,
    cohort: int = 40,
    rounds: int = 60,
    local_epochs: int = 5,
    batch_size: int = 5,
    lr: float = 0.1,
    strategy: StrategyName = "fedavg",
    order: OrderName = "shuffled",
    selection: SelectionName = "uniform",
    step_rule: StepName = "sgd",
    mu: float = 0.1,
    server_lr: float | None = None,
) -> Scenario:
    """Digits over many small unlike clients.

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
    """
    return Scenario(
        data=digits(),
        split=partition.dirichlet(alpha),
        task=classification("mlp", lambda: mlp(64, 64, 10)),
        strategy=strategy_named(
            strategy, steps=steps_named(step_rule, lr=lr), mu=mu, server_lr=server_lr
        ),
        plan=plan_named(order, epochs=local_epochs, batch_size=batch_size),
        selection=selection_named(selection),
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
