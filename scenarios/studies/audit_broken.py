"""Mechanisms with planted bugs, each of which an audit must detect.

World      scikit-learn's digits: over eight clients under example-level privacy, over a hundred
           under client-level privacy
Privacy    less than claimed: the ledger is charged for the mechanism without the bug
Lesson     a run with a wrong mechanism trains, converges and prints the same epsilon; only its
           canaries show the difference
Source     bugs of the kinds that were found in libraries
Needs      nothing: the data come with scikit-learn
Nearest    `fedsim plan digits_quickstart` plans the single run that is closest to an arm
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedsim.core.example_rule import Question
from fedsim.core.scenario import Mechanism
from fedsim.core.trees import Tree
from fedsim.core.updates import Aggregate, Bounded, Noise, Released, Update
from fedsim.studies.study import Arm, Study
from privacy import client_dp, dp_sgd
from privacy.mechanisms.clipping import flat
from privacy.mechanisms.dp_sgd import fixed_rule
from scenarios.shared import knobs
from scenarios.shared.audit_columns import answers
from scenarios.shared.audited_digits import (
    CLIENTS,
    COHORT,
    SAMPLING_PROB,
    client_level,
    example_level,
)
from scenarios.shared.budgets import poisson_noise

CLIP = 0.5
SMALL_COHORT, FEW_CANARIES = 2, 20  # so that some rounds have an empty cohort


def study(
    *,
    epsilon: float = 4.0,
    rounds: knobs.Rounds = 40,
    canaries: knobs.Canaries = 400,
    delta: knobs.Delta = 1e-5,
    seeds: knobs.Seeds = 20,
) -> Study:
    """Three bugs at each level, and the mechanisms without them.

    Args:
        epsilon: what each arm claims.
    """
    step_noise = poisson_noise(epsilon, delta, sampling_prob=SAMPLING_PROB, steps=rounds)
    round_noise = poisson_noise(epsilon, delta, sampling_prob=COHORT / CLIENTS, steps=rounds)
    small_cohort_noise = poisson_noise(
        epsilon, delta, sampling_prob=SMALL_COHORT / CLIENTS, steps=rounds
    )

    def examples(noise: float) -> Mechanism[Any]:
        return dp_sgd(noise_multiplier=noise, clip=CLIP, delta=delta)

    def clients(noise: float) -> Mechanism[Any]:
        return client_dp(noise_multiplier=noise, clip=CLIP, delta=delta)

    example_mechanisms = {
        "examples, correct": examples(step_noise),
        "examples, half the noise": charged_as(examples(step_noise), examples(step_noise / 2)),
        "examples, no clip": without_example_clip(examples(step_noise), step_noise),
        "examples, empty batches skipped": without_empty_batches(examples(step_noise)),
    }
    client_mechanisms = {
        "clients, correct": clients(round_noise),
        "clients, half the noise": charged_as(clients(round_noise), clients(round_noise / 2)),
        "clients, no clip": without_client_clip(clients(round_noise)),
    }
    arms = [
        Arm(name=name, scenario=example_level(made, rounds=rounds, canaries=canaries))
        for name, made in example_mechanisms.items()
    ]
    arms += [
        Arm(name=name, scenario=client_level(made, rounds=rounds, canaries=canaries))
        for name, made in client_mechanisms.items()
    ]
    small = client_level(
        without_empty_rounds(clients(small_cohort_noise)),
        rounds=rounds,
        canaries=min(canaries, FEW_CANARIES),
        cohort=SMALL_COHORT,
    )
    arms.append(Arm(name="clients, empty rounds skipped", scenario=small))
    return Study(
        paper="Planted bugs",
        setting=f"digits, {rounds} rounds, {canaries} canaries, epsilon {epsilon:g} claimed",
        arms=tuple(arms),
        seeds=seeds,
        reads=answers,
    )


def charged_as(claimed: Mechanism[Any], run: Mechanism[Any]) -> Mechanism[Any]:
    """A mechanism that is charged as `claimed` and does what `run` does."""
    return replace(
        claimed, bound=run.bound, release=run.release, example_rule=run.example_rule, norm=run.norm
    )


def without_example_clip(mechanism: Mechanism[Any], noise: float) -> Mechanism[Any]:
    """Unclipped gradients, with noise made for clipped ones."""
    unclipped = replace(
        flat(CLIP), factors=lambda squares: {n: torch.ones_like(s) for n, s in squares.items()}
    )
    return replace(mechanism, example_rule=fixed_rule(unclipped, noise))


def without_empty_batches(mechanism: Mechanism[Any]) -> Mechanism[Any]:
    """No noise in a step without examples, which reveals that there were none."""
    rule = mechanism.example_rule
    assert rule is not None

    def answer(question: Question[Any]) -> tuple[Tree, Tensor, Any]:
        gradient, losses, memory = rule.answer(question)
        some = (question.asked.batch.mask.sum(dim=1) > 0).to(torch.float32)
        skipped = {
            name: part * some.reshape(-1, *(1,) * (part.dim() - 1))
            for name, part in gradient.items()
        }
        return skipped, losses, memory

    return replace(mechanism, example_rule=replace(rule, answer=answer))


def without_client_clip(mechanism: Mechanism[Any]) -> Mechanism[Any]:
    """Unclipped updates, with noise made for clipped ones."""

    def bound(state: Any, update: Update) -> Bounded:
        return Bounded(update.diff, update.num_examples, l2_bound=CLIP)

    return replace(mechanism, bound=bound)


def without_empty_rounds(mechanism: Mechanism[Any]) -> Mechanism[Any]:
    """No noise in a round in which no client sent an update."""

    def release(state: Any, aggregate: Aggregate, noise: Noise) -> tuple[Released, Any]:
        if not any(bool(part.any()) for part in aggregate.diff.values()):
            return Released(aggregate.diff, aggregate.share), state
        return mechanism.release(state, aggregate, noise)

    return replace(mechanism, release=release)


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
