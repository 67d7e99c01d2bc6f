"""What does each mechanism claim, and how much of it can be measured? One table, one figure.

World      scikit-learn's digits: in eight hospitals where examples are protected, over a hundred
           clients where clients are
Privacy    every mechanism of the project, with noise for one budget where a budget can be had
Lesson     an attack on one run shows a part of what is claimed: the claim is for the worst unit and
           the strongest attack
Source     Steinke et al. (2023), arXiv:2305.08846; Mahloujifar et al. (2025), ICML
Needs      nothing: the data come with scikit-learn
Nearest    `fedsim plan digits_quickstart` plans the single run that is closest to an arm
"""

from __future__ import annotations

import math

from fedsim.core.scenario import Scenario
from fedsim.studies.study import Arm, Study
from privacy import (
    batch_clipping,
    client_dp,
    correlated_dp_sgd,
    correlated_noise,
    dp_sgd,
    error_feedback,
    local_dp,
)
from privacy.auditing.run.study_columns import answers, draw
from privacy.matrix_factorization import MinSeparation, banded, blt_optimised, nu_ftrl
from privacy.mechanisms.clipping import automatic, per_layer, quantile
from scenarios.shared import knobs
from scenarios.shared.audit_worlds import (
    CLIENTS,
    COHORT,
    SAMPLING_PROB,
    client_world,
    example_world,
)
from scenarios.shared.budgets import gaussian_noise, poisson_noise
from strategies import batch_plans, client_selection
from strategies.aggregators import mean

CLIP = 0.5
CHANCE = COHORT / CLIENTS
TURNS = CLIENTS // COHORT  # rounds between two turns of a client, where they take turns


def study(
    *,
    epsilon: float = 4.0,
    rounds: knobs.Rounds = 40,
    canaries: knobs.Canaries = 400,
    delta: knobs.Delta = 1e-5,
    seeds: knobs.Seeds = 1,
) -> Study:
    """Every mechanism, with what it claims and what its canaries show.

    Args:
        epsilon: that the noise is made for, where a mechanism has a guarantee.
    """
    worlds = {
        **_example_worlds(epsilon, rounds, canaries, delta),
        **_client_worlds(epsilon, rounds, canaries, delta),
    }
    return Study(
        paper="Claimed and measured",
        setting=f"digits, {rounds} rounds, {canaries} canaries, noise for epsilon {epsilon:g}",
        arms=tuple(Arm(name=name, scenario=world) for name, world in worlds.items()),
        seeds=seeds,
        reads=answers,
        draws=draw,
    )


def _example_worlds(
    epsilon: float, rounds: int, canaries: int, delta: float
) -> dict[str, Scenario]:
    noise = poisson_noise(epsilon, delta, sampling_prob=SAMPLING_PROB, steps=rounds)
    drawn = {
        "DP-SGD": dp_sgd(noise_multiplier=noise, clip=CLIP, delta=delta),
        "DP-SGD, by layer": dp_sgd(noise_multiplier=noise, clip=per_layer(CLIP), delta=delta),
        "DP-SGD, automatic": dp_sgd(noise_multiplier=noise, clip=automatic(CLIP), delta=delta),
        "DP-SGD, quantile": dp_sgd(
            noise_multiplier=noise, clip=quantile(CLIP, count_noise=5.0), delta=delta
        ),
        "batch clipping": batch_clipping(noise_multiplier=noise, clip_norm=CLIP, delta=delta),
        "DiceSGD": error_feedback(noise_multiplier=noise, clip_norm=CLIP, delta=delta),
    }
    worlds = {
        name: example_world(made, rounds=rounds, canaries=canaries) for name, made in drawn.items()
    }
    everything = batch_plans.ordered_epochs(epochs=1, batch_size=256)  # all that a hospital has
    always = MinSeparation(separation=1, most=rounds)
    for name, family in {
        "nu-DP-FTRL steps": nu_ftrl(0.05, rounds=rounds),
        "BLT steps": blt_optimised(2, rounds=rounds, separation=1, participations=rounds),
    }.items():
        noise = gaussian_noise(epsilon, delta, sensitivity=family.sensitivity(always).value)
        made = correlated_dp_sgd(family, noise_multiplier=noise, clip=CLIP, delta=delta)
        worlds[name] = example_world(made, rounds=rounds, canaries=canaries, plan=everything)
    return worlds


def _client_worlds(epsilon: float, rounds: int, canaries: int, delta: float) -> dict[str, Scenario]:
    noise = poisson_noise(epsilon, delta, sampling_prob=CHANCE, steps=rounds)
    drawn = {
        "DP-FedAvg": client_dp(noise_multiplier=noise, clip=CLIP, delta=delta),
        "DP-FedAvg, by layer": client_dp(noise_multiplier=noise, clip=per_layer(CLIP), delta=delta),
        "DP-FedAvg, automatic": client_dp(
            noise_multiplier=noise, clip=automatic(CLIP), delta=delta
        ),
        "DP-FedAvg, quantile": client_dp(
            noise_multiplier=noise, clip=quantile(CLIP, count_noise=2.0), delta=delta
        ),
    }
    worlds = {
        name: client_world(made, rounds=rounds, canaries=canaries) for name, made in drawn.items()
    }
    turns = -(-rounds // TURNS)
    schema = MinSeparation(separation=TURNS, most=turns)
    for name, family in {
        "nu-DP-FTRL": nu_ftrl(0.05, rounds=rounds),
        "BandMF": banded(TURNS, rounds=rounds, separation=TURNS, participations=turns),
        "BLT": blt_optimised(2, rounds=rounds, separation=TURNS, participations=turns),
    }.items():
        noise = gaussian_noise(epsilon, delta, sensitivity=family.sensitivity(schema).value)
        worlds[name] = client_world(
            correlated_noise(family, noise_multiplier=noise, clip=CLIP, delta=delta),
            rounds=rounds,
            canaries=canaries,
            who=client_selection.cyclic(),
        )
    times = math.sqrt(2 * rounds * CHANCE)  # hardly anybody is asked twice as often as on average
    noise = gaussian_noise(epsilon, delta, sensitivity=2 * times)
    worlds["local"] = client_world(
        local_dp(noise_multiplier=noise, clip=CLIP, delta=delta),
        rounds=rounds,
        canaries=canaries,
        aggregator=mean("uniform"),
    )
    return worlds


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
