"""DP-SGD and DP-FedAvg at three budgets, each run audited by its own canaries.

World      scikit-learn's digits: over eight clients under example-level privacy, over a hundred
           under client-level privacy
Privacy    the level and the epsilon of the arm's name
Lesson     the lower bound of an audit stays below a true claim, and grows with it
Source     Steinke et al. (2023), arXiv:2305.08846; Andrew et al. (2024), arXiv:2302.03098
Needs      nothing: the data come with scikit-learn
Nearest    `fedsim plan digits_quickstart` plans the single run that is closest to an arm
"""

from __future__ import annotations

from fedsim.studies.study import Arm, Study
from privacy import client_dp, dp_sgd
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

BUDGETS = (1.0, 4.0, 16.0)


def study(
    *,
    rounds: knobs.Rounds = 40,
    canaries: knobs.Canaries = 400,
    delta: knobs.Delta = 1e-5,
    seeds: knobs.Seeds = 20,
) -> Study:
    """Correct mechanisms: an audit should find no violation at any seed."""
    arms = []
    for epsilon in BUDGETS:
        noise = poisson_noise(epsilon, delta, sampling_prob=SAMPLING_PROB, steps=rounds)
        mechanism = dp_sgd(noise_multiplier=noise, clip=0.5, delta=delta)
        made = example_level(mechanism, rounds=rounds, canaries=canaries)
        arms.append(Arm(name=f"examples, {epsilon:g}", scenario=made))
    for epsilon in BUDGETS:
        noise = poisson_noise(epsilon, delta, sampling_prob=COHORT / CLIENTS, steps=rounds)
        made = client_level(
            client_dp(noise_multiplier=noise, delta=delta), rounds=rounds, canaries=canaries
        )
        arms.append(Arm(name=f"clients, {epsilon:g}", scenario=made))
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
