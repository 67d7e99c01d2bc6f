"""The epsilon that each mechanism claims, beside the lower bound that its canaries give.

World      scikit-learn's digits: over eight clients under example-level privacy, over a hundred
           under client-level privacy
Privacy    every mechanism here, with noise for the same epsilon where it has a guarantee
Lesson     the lower bound from one run is below the claim, which holds for the worst case and the
           strongest attack
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
from privacy.matrix_factorization import MinSeparation, banded, blt_optimised, nu_ftrl
from privacy.mechanisms.clipping import automatic, per_layer, quantile
from scenarios.shared import knobs
from scenarios.shared.audit_columns import answers, draw
from scenarios.shared.audited_digits import (
    CLIENTS,
    COHORT,
    SAMPLING_PROB,
    client_level,
    example_level,
)
from scenarios.shared.budgets import gaussian_noise, poisson_noise
from strategies import batch_plans, client_selection
from strategies.aggregators import mean

CLIP = 0.5
COHORT_PROB = COHORT / CLIENTS
SEPARATION = CLIENTS // COHORT  # rounds between two turns of a client under cyclic selection


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
        epsilon: which the noise is made for, where a mechanism has a guarantee.
    """
    scenarios = {
        **_example_level_scenarios(epsilon, rounds, canaries, delta),
        **_client_level_scenarios(epsilon, rounds, canaries, delta),
    }
    return Study(
        paper="Claimed and measured",
        setting=f"digits, {rounds} rounds, {canaries} canaries, noise for epsilon {epsilon:g}",
        arms=tuple(Arm(name=name, scenario=made) for name, made in scenarios.items()),
        seeds=seeds,
        reads=answers,
        draws=draw,
    )


def _example_level_scenarios(
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
    scenarios = {
        name: example_level(made, rounds=rounds, canaries=canaries) for name, made in drawn.items()
    }
    everything = batch_plans.ordered_epochs(epochs=1, batch_size=256)  # a client's whole data
    always = MinSeparation(separation=1, most=rounds)
    for name, family in {
        "nu-DP-FTRL steps": nu_ftrl(0.05, rounds=rounds),
        "BLT steps": blt_optimised(2, rounds=rounds, separation=1, participations=rounds),
    }.items():
        noise = gaussian_noise(epsilon, delta, sensitivity=family.sensitivity(always).value)
        made = correlated_dp_sgd(family, noise_multiplier=noise, clip=CLIP, delta=delta)
        scenarios[name] = example_level(made, rounds=rounds, canaries=canaries, plan=everything)
    return scenarios


def _client_level_scenarios(
    epsilon: float, rounds: int, canaries: int, delta: float
) -> dict[str, Scenario]:
    noise = poisson_noise(epsilon, delta, sampling_prob=COHORT_PROB, steps=rounds)
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
    scenarios = {
        name: client_level(made, rounds=rounds, canaries=canaries) for name, made in drawn.items()
    }
    turns = -(-rounds // SEPARATION)
    schema = MinSeparation(separation=SEPARATION, most=turns)
    for name, family in {
        "nu-DP-FTRL": nu_ftrl(0.05, rounds=rounds),
        "BandMF": banded(SEPARATION, rounds=rounds, separation=SEPARATION, participations=turns),
        "BLT": blt_optimised(2, rounds=rounds, separation=SEPARATION, participations=turns),
    }.items():
        noise = gaussian_noise(epsilon, delta, sensitivity=family.sensitivity(schema).value)
        scenarios[name] = client_level(
            correlated_noise(family, noise_multiplier=noise, clip=CLIP, delta=delta),
            rounds=rounds,
            canaries=canaries,
            selection=client_selection.cyclic(),
        )
    times = math.sqrt(
        2 * rounds * COHORT_PROB
    )  # few clients take part twice as often as on average
    noise = gaussian_noise(epsilon, delta, sensitivity=2 * times)
    scenarios["local"] = client_level(
        local_dp(noise_multiplier=noise, clip=CLIP, delta=delta),
        rounds=rounds,
        canaries=canaries,
        aggregator=mean("uniform"),
    )
    return scenarios


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
