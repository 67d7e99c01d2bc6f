"""Correlated noise across rounds, beside independent noise, at the same budgets.

World      Fashion-MNIST, Dirichlet(alpha) over `population` clients, which take turns
Privacy    client-level DP against anyone who sees the models; a trusted server adds the noise
Lesson     without amplification by sampling, correlated noise gains points of accuracy over
           independent noise
Source     Choquette-Choo et al. (2024), arXiv:2310.06771 (nu-DP-FTRL); (2023),
           arXiv:2306.08153 (BandMF); Dvijotham et al. (2024), arXiv:2404.16706 (BLT)
Needs      fashion_mnist/ in --data-dir, the four .gz files as published
Nearest    `fedsim plan dp_clients_femnist` plans the single run that is closest to an arm
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

_Choice = tuple[Mechanism[Any], Selection[Any]]


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
    turns = _Turns(population=population, cohort=cohort, rounds=rounds)
    families = _families(nu, turns)
    arms: dict[str, _Choice] = {"no privacy": (none(), client_selection.cyclic())}
    for epsilon in BUDGETS:
        correlated = _correlated(families, turns, epsilon, clip_norm, delta)
        sampled = _sampled(turns, epsilon, clip_norm, delta)
        arms |= {f"{name}, {epsilon:g}": made for name, made in (correlated | sampled).items()}

    def scenario(mechanism: Mechanism[Any], selection: Selection[Any]) -> Scenario:
        return Scenario(
            data=fashion_mnist(),
            split=partition.dirichlet(alpha),
            task=classification("softmax", lambda: softmax_regression(784, 10)),
            strategy=fedavg(steps=sgd(lr)),
            plan=batch_plans.shuffled_epochs(epochs=1, batch_size=10),
            selection=selection,
            aggregator=public_mean(),
            mechanism=mechanism,
            population=population,
            cohort=cohort,
            rounds=rounds,
            evaluate_every=5,
        )

    return Study(
        paper="Correlated noise, after arXiv:2310.06771 and arXiv:2306.08153",
        setting=(
            f"Fashion-MNIST, softmax regression, Dirichlet {alpha:g}, {population} clients, "
            f"{cohort} a round, {turns.most} turns each {turns.separation} rounds apart, clip norm "
            f"{clip_norm:g}; the number in a name is its epsilon"
        ),
        arms=tuple(Arm(name=name, scenario=scenario(*made)) for name, made in arms.items()),
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


@dataclass(frozen=True, kw_only=True)
class _Turns:
    """When a client takes part, if clients take turns."""

    population: int
    cohort: int
    rounds: int

    @property
    def separation(self) -> int:
        """Rounds from one turn of a client to the next."""
        return self.population // self.cohort

    @property
    def most(self) -> int:
        """How often a client takes part at most."""
        return -(-self.rounds // self.separation)


def _families(nu: float, turns: _Turns) -> dict[str, Factorization]:
    """The factorizations that are compared, for clients that take turns."""
    rounds, separation, most = turns.rounds, turns.separation, turns.most
    return {
        "independent": independent(rounds=rounds),
        f"nu-DP-FTRL, nu = {nu:g}": nu_ftrl(nu, rounds=rounds),
        "BandMF": banded(separation, rounds=rounds, separation=separation, participations=most),
        "BLT, 2 buffers": blt_optimised(
            2, rounds=rounds, separation=separation, participations=most
        ),
    }


def _correlated(
    families: Mapping[str, Factorization],
    turns: _Turns,
    epsilon: float,
    clip_norm: float,
    delta: float,
) -> dict[str, _Choice]:
    """Each factorization with noise for the budget; clients take turns."""
    schema = MinSeparation(turns.separation, turns.most)
    made: dict[str, _Choice] = {}
    for name, family in families.items():
        sensitivity = family.sensitivity(schema).value
        noise = gaussian_noise(epsilon, delta, sensitivity=sensitivity)
        private = correlated_noise(family, noise_multiplier=noise, clip=clip_norm, delta=delta)
        made[name] = (private, client_selection.cyclic())
    return made


def _sampled(turns: _Turns, epsilon: float, clip_norm: float, delta: float) -> dict[str, _Choice]:
    """BandMF amplified by Poisson sampling within groups, and DP-FedAvg with Poisson cohorts."""
    population, cohort, rounds = turns.population, turns.cohort, turns.rounds
    groups = group_poisson(bands=BANDS, population=population, cohort=cohort, rounds=rounds)
    family = banded(BANDS, rounds=rounds, separation=rounds, participations=1)
    noise = poisson_noise(
        epsilon, delta, sampling_prob=groups.sampling_prob, steps=groups.compositions
    )
    noise *= family.sensitivity(Single()).value
    grouped = correlated_noise(family, noise_multiplier=noise, clip=clip_norm, delta=delta)
    noise = poisson_noise(epsilon, delta, sampling_prob=cohort / population, steps=rounds)
    independent_cohorts = client_dp(noise_multiplier=noise, clip=clip_norm, delta=delta)
    return {
        "BandMF in Poisson groups": (grouped, client_selection.poisson_groups(BANDS)),
        "Poisson cohorts": (independent_cohorts, client_selection.poisson()),
    }


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
