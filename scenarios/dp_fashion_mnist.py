"""Centralised DP-SGD on Fashion-MNIST (one client has all data): the accuracy that epsilon costs.

World      60,000 images of one client, or of more with --population; test on the 10,000 published
           test images
Model      the LeNet-like network of 44,426 parameters
Privacy    example-level DP against everyone but the client itself; Poisson batches, Gaussian noise
Lesson     with 60,000 images epsilon 3 costs one or two points of accuracy
Source     Abadi et al. (2016), arXiv:1607.00133
Needs      fashion_mnist/ in --data-dir, the four .gz files as published
"""

from __future__ import annotations

from typing import Literal

from fedsim.core.scenario import Scenario
from fedsim.data import fashion_mnist
from fedsim.models.tasks import classification
from fedsim.models.vision import lenet
from fedsim.world import partition
from privacy import dp_sgd
from privacy.mechanisms.clipping import Clip, automatic, flat, per_layer
from scenarios.shared import knobs
from scenarios.shared.budgets import poisson_noise
from strategies import batch_plans, client_selection
from strategies.aggregators import mean

ClipName = Literal["flat", "per_layer", "automatic"]


def scenario(
    *,
    epsilon: knobs.Epsilon = 3.0,
    delta: knobs.Delta = 1e-5,
    noise_multiplier: float | None = None,
    clip: ClipName = "flat",
    clip_norm: float = 1.0,
    sampling_prob: knobs.SamplingProb = 0.008,
    population: knobs.Population = 1,
    cohort: knobs.Cohort = 1,
    alpha: knobs.Alpha = 1.0,
    rounds: knobs.Rounds = 30,
    local_steps: knobs.LocalSteps = 25,
    lr: knobs.LearningRate = 3.0,
    strategy: knobs.StrategyName = "fedavg",
    step_rule: knobs.StepName = "sgd",
    evaluate_every: knobs.EvaluateEvery = 5,
) -> Scenario:
    """Centralised DP-SGD at a budget; with --population, DP-SGD at each of several clients.

    Args:
        noise_multiplier: noise over clip norm; left out, the smallest that keeps the budget for a
            client that is in every round, with a strategy that asks for one gradient a step.
        clip: the clipping rule.
        clip_norm: the largest norm of an example's gradient.
        step_rule: how clients step; delta_sgd asks twice a step, and pays for it.
    """
    rules: dict[ClipName, Clip] = {
        "flat": flat(clip_norm),
        "per_layer": per_layer(clip_norm),
        "automatic": automatic(clip_norm),
    }
    noise = noise_multiplier or poisson_noise(
        epsilon, delta, sampling_prob=sampling_prob, steps=rounds * local_steps
    )
    return Scenario(
        data=fashion_mnist(),
        split=partition.dirichlet(alpha) if population > 1 else partition.iid(),
        task=classification("lenet", lambda: lenet(10)),
        strategy=knobs.strategy_named(
            strategy, steps=knobs.steps_named(step_rule, lr=lr), mu=0.01, server_lr=None
        ),
        plan=batch_plans.poisson_batches(steps=local_steps, sampling_prob=sampling_prob),
        selection=client_selection.uniform(),
        aggregator=mean(),
        mechanism=dp_sgd(noise_multiplier=noise, clip=rules[clip], delta=delta),
        population=population,
        cohort=cohort,
        rounds=rounds,
        evaluate_every=evaluate_every,
        budget=epsilon,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
