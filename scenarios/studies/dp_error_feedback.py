"""A sweep over the clip norm: clipping bias of DP-SGD, and error feedback, which removes it.

World      linear regression with skewed noise, one client: the mean of its clipped gradients
           differs from the mean gradient
Privacy    example-level DP; DiceSGD's noise is calibrated as in its paper, but the ledger says "no
           guarantee" unless every gradient is clipped to a hard bound first
Lesson     a small clip norm makes DP-SGD estimate a median; feedback restores the mean, with noise
           that has no proof
Source     Zhang et al. (2024), arXiv:2311.14632; Chen et al. (2020), arXiv:2006.15429, for the bias
Needs      nothing: the data are drawn
Nearest    `fedsim plan dp_fashion_mnist` plans the single run that is closest to an arm
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.core.batch import Batch, Penalty
from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.scenario import Mechanism, Scenario
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.studies.study import Arm, Claim, Study
from fedsim.world import partition
from privacy import dp_sgd, error_feedback, none
from scenarios.shared import knobs
from scenarios.shared.budgets import poisson_noise
from strategies import batch_plans, client_selection, fedavg
from strategies.aggregators import mean
from strategies.step_rules import sgd

INPUTS = 10
CLIP_NORMS = (0.1, 0.3, 1.0, 3.0, 10.0)


def study(
    *,
    epsilon: float = 2.0,
    delta: knobs.Delta = 1e-5,
    examples: int = 4000,
    skew: float = 3.0,
    sampling_prob: knobs.SamplingProb = 0.05,
    rounds: knobs.Rounds = 20,
    local_steps: int = 30,
    lr: float = 0.05,
    largest: float = 20.0,
    seeds: knobs.Seeds = 3,
) -> Study:
    """DP-SGD and DiceSGD over five clip norms.

    Args:
        epsilon: DP-SGD's budget; DiceSGD gets the noise that its paper gives for the same.
        examples: of the client.
        skew: the scale of the exponential noise on the answers.
        local_steps: of the client in a round.
        lr: the learning rate at clip norm 1; lr / C below, so that steps are as long.
        largest: the hard bound G of the one DiceSGD that has a guarantee.
    """
    noise = poisson_noise(epsilon, delta, sampling_prob=sampling_prob, steps=rounds * local_steps)

    def scenario(mechanism: Mechanism[Any], rate: float) -> Scenario:
        return Scenario(
            data=skewed(examples, skew),
            split=partition.iid(),
            task=regression(),
            strategy=fedavg(steps=sgd(rate)),
            plan=batch_plans.poisson_batches(steps=local_steps, sampling_prob=sampling_prob),
            selection=client_selection.uniform(),
            aggregator=mean(),
            mechanism=mechanism,
            population=1,
            cohort=1,
            rounds=rounds,
        )

    arms = [Arm(name="no privacy", scenario=scenario(none(), lr))]
    for clip in CLIP_NORMS:
        rate = lr / min(clip, 1.0)
        plain = dp_sgd(noise_multiplier=noise, clip=clip, delta=delta)
        fed_back = error_feedback(noise_multiplier=noise, clip_norm=clip, delta=delta)
        arms.append(Arm(name=f"DP-SGD C = {clip:g}", scenario=scenario(plain, rate)))
        arms.append(Arm(name=f"DiceSGD C = {clip:g}", scenario=scenario(fed_back, rate)))
    cut = error_feedback(noise_multiplier=noise, clip_norm=1.0, largest=largest, delta=delta)
    arms.append(Arm(name=f"DiceSGD C = 1, cut to {largest:g}", scenario=scenario(cut, lr)))
    return Study(
        paper="Clipping bias and DiceSGD, ICLR 2024, arXiv:2311.14632",
        setting=(
            f"linear regression, {examples} examples, exponential noise of scale {skew:g} on the "
            f"answers; test loss is half the squared error above the noise's own; {rounds} rounds "
            f"of {local_steps} Poisson steps with probability {sampling_prob:g}"
        ),
        arms=tuple(arms),
        claims=tuple(_claim(clip) for clip in CLIP_NORMS),
        seeds=seeds,
        metric="test_loss",
        last=3,
    )


def _claim(clip: float) -> Claim:
    return Claim(
        says=f"feedback helps at clip norm {clip:g}",
        arm=f"DiceSGD C = {clip:g}",
        than=f"DP-SGD C = {clip:g}",
    )


def skewed(examples: int, skew: float) -> Source:
    """Answers w x + an exponential number, in the last column of x; tests have its mean instead."""

    def load(data_dir: Path | None) -> Dataset:
        draw = np.random.default_rng(0)
        weights = draw.normal(size=INPUTS)

        def drawn(count: int, noise: Any) -> Examples:
            x = draw.normal(size=(count, INPUTS)) / INPUTS**0.5
            answers = x @ weights + noise(count)
            table = np.column_stack([x, answers]).astype(np.float32)
            return Examples(torch.from_numpy(table), torch.zeros(count, dtype=torch.int64))

        return Dataset(
            name="skewed regression",
            train=drawn(examples, lambda count: draw.exponential(skew, count)),
            test=drawn(2000, lambda count: np.full(count, skew)),
            num_classes=1,
        )

    return Source(name="skewed regression", load=load)


def regression() -> Task:
    """Half the squared error of w x + b, whose answers are the last column of x."""

    def answers(params: Tree, x: Tensor) -> Tensor:
        return x[:, :-1] @ params["w"] + params["b"] - x[:, -1]

    def loss(params: Tree, batch: Batch, penalty: Penalty | None = None) -> Tensor:
        return answers(params, batch.x).square() / 2

    return Task(
        name="linear regression",
        init=lambda seed: {"w": torch.zeros(INPUTS), "b": torch.zeros(())},
        loss=loss,
        stacked_loss=None,
        predict=answers,
        features=lambda params, x: x,
        loss_of=lambda errors, y: errors.square() / 2,
        convolutional=False,
        hits=None,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
