"""Is it true? DP-SGD and DP-FedAvg at three budgets, each run audited by its own canaries.

World      scikit-learn's digits: in eight hospitals where examples are protected, over a hundred
           clients where clients are
Privacy    as the arm's name says; the noise is made for its budget
Lesson     no attack gets above a claim that is true, and a large budget lets it get far
Source     Steinke et al. (2023), arXiv:2305.08846; Andrew et al. (2024), arXiv:2302.03098
Needs      nothing: the data come with scikit-learn
Nearest    `fedsim plan digits_quickstart` plans the single run that is closest to an arm
"""

from __future__ import annotations

from fedsim.studies.study import Arm, Study
from privacy import client_dp, dp_sgd
from privacy.auditing.run.study_columns import answers
from scenarios.shared import knobs
from scenarios.shared.audit_worlds import (
    CLIENTS,
    COHORT,
    SAMPLING_PROB,
    client_world,
    example_world,
)
from scenarios.shared.budgets import poisson_noise

BUDGETS = (1.0, 4.0, 16.0)


def study(
    *,
    rounds: knobs.Rounds = 40,
    canaries: knobs.Canaries = 400,
    delta: knobs.Delta = 1e-5,
    seeds: knobs.Seeds = 20,
) -> Study:
    """Correct mechanisms, which no seed should find fault with."""
    arms = []
    for epsilon in BUDGETS:
        noise = poisson_noise(epsilon, delta, sampling_prob=SAMPLING_PROB, steps=rounds)
        mechanism = dp_sgd(noise_multiplier=noise, clip=0.5, delta=delta)
        world = example_world(mechanism, rounds=rounds, canaries=canaries)
        arms.append(Arm(name=f"examples, {epsilon:g}", scenario=world))
    for epsilon in BUDGETS:
        noise = poisson_noise(epsilon, delta, sampling_prob=COHORT / CLIENTS, steps=rounds)
        world = client_world(
            client_dp(noise_multiplier=noise, delta=delta), rounds=rounds, canaries=canaries
        )
        arms.append(Arm(name=f"clients, {epsilon:g}", scenario=world))
    return Study(
        paper="One-run audits, arXiv:2305.08846",
        setting=(
            f"digits, {rounds} rounds, {canaries} canaries; the number in a name is its epsilon"
        ),
        arms=tuple(arms),
        seeds=seeds,
        reads=answers,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
