"""Is it caught? Mechanisms with a bug in them, each of which an audit must find.

World      scikit-learn's digits: in eight hospitals where examples are protected, over a hundred
           clients where clients are
Privacy    none that is as claimed: the ledger is charged for a mechanism that is not run
Lesson     a run with a wrong mechanism trains, converges and prints the same epsilon; its canaries
           do not
Source     the bugs are ones that were found in libraries, or are easily written
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
from privacy.auditing.run.study_columns import answers
from privacy.mechanisms.clipping import flat
from privacy.mechanisms.dp_sgd import fixed_rule
from scenarios.shared import knobs
from scenarios.shared.audit_worlds import (
    CLIENTS,
    COHORT,
    SAMPLING_PROB,
    client_world,
    example_world,
)
from scenarios.shared.budgets import poisson_noise

CLIP = 0.5
SELDOM, FEW = 2, 20  # clients a round, and canaries, so that there are rounds without anybody


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
    of_steps = poisson_noise(epsilon, delta, sampling_prob=SAMPLING_PROB, steps=rounds)
    of_rounds = poisson_noise(epsilon, delta, sampling_prob=COHORT / CLIENTS, steps=rounds)
    seldom = poisson_noise(epsilon, delta, sampling_prob=SELDOM / CLIENTS, steps=rounds)

    def examples(noise: float) -> Mechanism[Any]:
        return dp_sgd(noise_multiplier=noise, clip=CLIP, delta=delta)

    def clients(noise: float) -> Mechanism[Any]:
        return client_dp(noise_multiplier=noise, clip=CLIP, delta=delta)

    of_examples = {
        "examples, correct": examples(of_steps),
        "examples, half the noise": told(examples(of_steps), examples(of_steps / 2)),
        "examples, no clip": without_example_clip(examples(of_steps), of_steps),
        "examples, empty batches skipped": without_empty_batches(examples(of_steps)),
    }
    of_clients = {
        "clients, correct": clients(of_rounds),
        "clients, half the noise": told(clients(of_rounds), clients(of_rounds / 2)),
        "clients, no clip": without_client_clip(clients(of_rounds)),
    }
    arms = [
        Arm(name=name, scenario=example_world(made, rounds=rounds, canaries=canaries))
        for name, made in of_examples.items()
    ]
    arms += [
        Arm(name=name, scenario=client_world(made, rounds=rounds, canaries=canaries))
        for name, made in of_clients.items()
    ]
    lonely = client_world(
        without_empty_rounds(clients(seldom)),
        rounds=rounds,
        canaries=min(canaries, FEW),
        cohort=SELDOM,
    )
    arms.append(Arm(name="clients, empty rounds skipped", scenario=lonely))
    return Study(
        paper="Planted bugs",
        setting=f"digits, {rounds} rounds, {canaries} canaries, epsilon {epsilon:g} claimed",
        arms=tuple(arms),
        seeds=seeds,
        reads=answers,
    )


def told(claimed: Mechanism[Any], run: Mechanism[Any]) -> Mechanism[Any]:
    """What is charged for one mechanism and does what another one does."""
    return replace(
        claimed, bound=run.bound, release=run.release, example_rule=run.example_rule, norm=run.norm
    )


def without_example_clip(mechanism: Mechanism[Any], noise: float) -> Mechanism[Any]:
    """Gradients as long as they are, with noise for clipped ones."""
    as_they_are = replace(
        flat(CLIP), factors=lambda squares: {n: torch.ones_like(s) for n, s in squares.items()}
    )
    return replace(mechanism, example_rule=fixed_rule(as_they_are, noise))


def without_empty_batches(mechanism: Mechanism[Any]) -> Mechanism[Any]:
    """No noise where no example was drawn: there was nothing to do, and now all know it."""
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
    """Updates as long as they are, with noise for clipped ones."""

    def bound(state: Any, update: Update) -> Bounded:
        return Bounded(update.diff, update.num_examples, l2_bound=CLIP)

    return replace(mechanism, bound=bound)


def without_empty_rounds(mechanism: Mechanism[Any]) -> Mechanism[Any]:
    """No noise where nobody sent anything."""

    def release(state: Any, aggregate: Aggregate, noise: Noise) -> tuple[Released, Any]:
        if not any(bool(part.any()) for part in aggregate.diff.values()):
            return Released(aggregate.diff, aggregate.share), state
        return mechanism.release(state, aggregate, noise)

    return replace(mechanism, release=release)


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
