"""FEMNIST under client-level DP (DP-FedAvg): with few writers the noise costs much accuracy.

World      62 characters; the 105 writers in the files that ship as parquet
Model      softmax regression on images shrunk to 9x9, because noise grows with the number of
           parameters: 5,084
Privacy    client-level DP for all examples of a writer, against anyone who sees the models; a
           trusted server
Lesson     with 105 writers, epsilon 8 costs one point of accuracy, epsilon 3 nine points, and
           epsilon 1 more than half of the accuracy
Source     McMahan et al. (2018), arXiv:1710.06963; Andrew et al. (2021), arXiv:1905.03871
Needs      femnist/ in --data-dir, parquet files or LEAF's JSON shards
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from fedsim.core.scenario import Scenario
from fedsim.data import femnist
from fedsim.models.tasks import classification
from fedsim.world import partition
from privacy import client_dp
from privacy.mechanisms.clipping import Clip, Quantile, flat, quantile
from scenarios.shared import knobs
from scenarios.shared.budgets import poisson_noise
from strategies import batch_plans, client_selection
from strategies.aggregators import public_mean
from strategies.step_rules import sgd


def scenario(
    *,
    epsilon: knobs.Epsilon = 8.0,
    delta: float = 1e-3,
    noise_multiplier: float | None = None,
    clip: Literal["flat", "quantile"] = "quantile",
    clip_norm: float = 1.0,
    population: int = 105,
    cohort: int = 52,
    rounds: knobs.Rounds = 30,
    local_epochs: knobs.LocalEpochs = 2,
    batch_size: knobs.BatchSize = 20,
    lr: knobs.LearningRate = 0.3,
    strategy: knobs.StrategyName = "fedavg",
    server_lr: knobs.ServerLearningRate = None,
    evaluate_every: knobs.EvaluateEvery = 5,
) -> Scenario:
    """DP-FedAvg at a budget.

    Args:
        delta: at which epsilon is given; below one over the population.
        noise_multiplier: noise over clip norm; left out, the smallest that keeps the budget.
        clip: a fixed norm, or one that follows the median of the updates' norms.
        clip_norm: the largest norm of a client's update, or where the median's search starts.
        population: number of writers.
        cohort: clients a round, on average.
    """
    noise = noise_multiplier or poisson_noise(
        epsilon, delta, sampling_prob=cohort / population, steps=rounds
    )
    rule: Clip | Quantile = flat(clip_norm)
    if clip == "quantile":
        rule = quantile(clip_norm, count_noise=max(noise, cohort / 20))
    return Scenario(
        data=femnist(),
        split=partition.natural(),
        task=classification("softmax 9x9", _model),
        strategy=knobs.strategy_named(strategy, steps=sgd(lr), mu=0.01, server_lr=server_lr),
        plan=batch_plans.shuffled_epochs(epochs=local_epochs, batch_size=batch_size),
        selection=client_selection.poisson(),
        aggregator=public_mean(),
        mechanism=client_dp(noise_multiplier=noise, clip=rule, delta=delta),
        population=population,
        cohort=cohort,
        rounds=rounds,
        evaluate_every=evaluate_every,
        budget=epsilon,
    )


def _model() -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(3), nn.Flatten(), nn.Linear(81, 62))


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
