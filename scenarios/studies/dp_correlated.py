"""Correlated noise across rounds, beside independent noise, at the same budgets.

World      Fashion-MNIST, Dirichlet(alpha) over `population` clients, which take turns
Privacy    a client, from whoever sees the models; a trusted server adds the noise
Lesson     where nothing is amplified by sampling, noise that is taken back later is worth points
Source     Choquette-Choo et al. (2024), arXiv:2310.06771 (nu-DP-FTRL); (2023),
           arXiv:2306.08153 (BandMF); Dvijotham et al. (2024), arXiv:2404.16706 (BLT)
Needs      fashion_mnist/ in --data-dir, the four .gz files as published
Nearest    `fedsim plan dp_clients_femnist` plans the single run that is closest to an arm
"""

from __future__ import annotations

from typing import Any

from fedsim.core.sampling import Selection
from fedsim.core.scenario import Mechanism, Scenario
from fedsim.data import fashion_mnist
from fedsim.models.tasks import classification
from fedsim.models.vision import softmax_regression
from fedsim.studies.study import Arm, Claim, Study
from fedsim.world import partition
from privacy import client_dp, correlated_noise, none
from privacy.matrix_factorization import (
    Factorization,
    MinSeparation,
    Single,
    banded,
    blt_optimised,
    group_poisson,
    independent,
    nu_ftrl,
)
from scenarios.shared import knobs
from scenarios.shared.budgets import gaussian_noise, poisson_noise
from strategies import batch_plans, client_selection, fedavg
from strategies.aggregators import public_mean
from strategies.step_rules import sgd

BUDGETS = (2.0, 8.0)
BANDS = 4  # of the amplified one: its clients are in as many groups


def study(
    *,
    population: knobs.Population = 1000,
    cohort: int = 100,
    rounds: knobs.Rounds = 100,
    alpha: knobs.Alpha = 0.3,
    nu: float = 0.01,
    clip_norm: float = 0.3,
    delta: float = 1e-4,
    lr: knobs.LearningRate = 0.05,
    seeds: knobs.Seeds = 3,
) -> Study:
    """Independent noise, nu-DP-FTRL, BandMF and BLT at equal budgets, and Poisson cohorts beside.

    Args:
        cohort: clients a round; a client's turn comes every population / cohort rounds.
        nu: of nu-DP-FTRL.
        clip_norm: the largest norm of a client's update.
        delta: at which epsilon is given; below one over the population.
    """
    separation = population // cohort
    turns = -(-rounds // separation)
    schema = MinSeparation(separation, turns)
    families: dict[str, Factorization] = {
        "independent": independent(rounds=rounds),
        f"nu-DP-FTRL, nu = {nu:g}": nu_ftrl(nu, rounds=rounds),
        "BandMF": banded(separation, rounds=rounds, separation=separation, participations=turns),
        "BLT, 2 buffers": blt_optimised(
            2, rounds=rounds, separation=separation, participations=turns
        ),
    }

    def world(mechanism: Mechanism[Any], who: Selection[Any]) -> Scenario:
        return Scenario(
            data=fashion_mnist(),
            split=partition.dirichlet(alpha),
            task=classification("softmax", lambda: softmax_regression(784, 10)),
            strategy=fedavg(steps=sgd(lr)),
            plan=batch_plans.shuffled_epochs(epochs=1, batch_size=10),
            selection=who,
            aggregator=public_mean(),
            mechanism=mechanism,
            population=population,
            cohort=cohort,
            rounds=rounds,
            evaluate_every=5,
        )

    few = banded(BANDS, rounds=rounds, separation=rounds, participations=1)
    turns_of = group_poisson(bands=BANDS, population=population, cohort=cohort, rounds=rounds)

    arms = [Arm(name="no privacy", scenario=world(none(), client_selection.cyclic()))]
    for epsilon in BUDGETS:
        for name, family in families.items():
            sensitivity = family.sensitivity(schema).value
            noise = gaussian_noise(epsilon, delta, sensitivity=sensitivity)
            private = correlated_noise(family, noise_multiplier=noise, clip=clip_norm, delta=delta)
            arms.append(
                Arm(name=f"{name}, {epsilon:g}", scenario=world(private, client_selection.cyclic()))
            )
        noise = poisson_noise(
            epsilon, delta, sampling_prob=turns_of.sampling_prob, steps=turns_of.compositions
        )
        private = correlated_noise(
            few,
            noise_multiplier=noise * few.sensitivity(Single()).value,
            clip=clip_norm,
            delta=delta,
        )
        drawn = world(private, client_selection.poisson_groups(BANDS))
        arms.append(Arm(name=f"BandMF in Poisson groups, {epsilon:g}", scenario=drawn))
        noise = poisson_noise(epsilon, delta, sampling_prob=cohort / population, steps=rounds)
        private = client_dp(noise_multiplier=noise, clip=clip_norm, delta=delta)
        drawn = world(private, client_selection.poisson())
        arms.append(Arm(name=f"Poisson cohorts, {epsilon:g}", scenario=drawn))
    return Study(
        paper="Correlated noise, after arXiv:2310.06771 and arXiv:2306.08153",
        setting=(
            f"Fashion-MNIST, softmax regression, Dirichlet {alpha:g}, {population} clients, "
            f"{cohort} a round, {turns} turns each {separation} rounds apart, clip norm "
            f"{clip_norm:g}; the number in a name is its epsilon"
        ),
        arms=tuple(arms),
        claims=tuple(
            Claim(
                says=f"at epsilon {epsilon:g}, {name} beats independent noise",
                arm=f"{name}, {epsilon:g}",
                than=f"independent, {epsilon:g}",
            )
            for epsilon in BUDGETS
            for name in list(families)[1:]
        ),
        seeds=seeds,
        last=3,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
