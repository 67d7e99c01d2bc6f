"""Curricula of examples and of clients, against their controls (Vahidian et al., ICCV 2023).

World      full: Fashion-MNIST, Dirichlet 0.2, 100 clients, LeNet, 100 rounds of 10 epochs, batch 10
           small: the same with 40 rounds of 3 epochs, batch 32
Published  the arrays in the authors' notebooks: FedAvg, scoring G; there, too, the curriculum does
           not beat plain shuffling on this data set
Needs      fashion_mnist/ in --data-dir
Nearest    `fedsim plan fashion_mnist_dirichlet` plans the single run that is closest to an arm
"""

from __future__ import annotations

from typing import Any

from fedsim.core.sampling import Selection
from fedsim.core.scenario import BatchPlan, Scenario
from fedsim.studies.study import Arm, Claim, Study
from scenarios.shared import knobs
from scenarios.shared.papers import image_scenario
from strategies import batch_plans, client_selection, fedavg
from strategies.aggregators import mean
from strategies.batch_plans import data_curriculum
from strategies.client_selection import client_curriculum
from strategies.step_rules import sgd

PUBLISHED = {"shuffled": 0.8597, "curriculum": 0.8512, "anti": 0.8372, "random": 0.8612}
CLAIMS = (
    Claim(says="easy first beats hard first", arm="curriculum", than="anti"),
    Claim(says="a curriculum beats shuffling", arm="curriculum", than="shuffled"),
    Claim(
        says="random order under the same pacing does what the curriculum does, to 1 point",
        arm="curriculum",
        than="random",
        kind="same",
        within=0.01,
    ),
    Claim(says="easy clients first help", arm="client curriculum", than="shuffled"),
    Claim(says="both beat the data's alone", arm="both curricula", than="curriculum"),
)


def study(*, small: bool = False, seeds: knobs.Seeds = 3) -> Study:
    """Data and client curricula beside shuffled data and uniform cohorts.

    Args:
        small: fewer rounds and epochs, for two cores and ten minutes.
    """
    epochs, batch_size = (3, 32) if small else (10, 10)
    shuffled = batch_plans.shuffled_epochs(epochs=epochs, batch_size=batch_size)
    easy, hard, random = (
        data_curriculum(epochs=epochs, batch_size=batch_size, order=order)
        for order in ("curriculum", "anti", "random")
    )
    uniform, easy_clients = client_selection.uniform(), client_curriculum()
    arms: dict[str, tuple[BatchPlan, Selection[Any]]] = {
        "shuffled": (shuffled, uniform),
        "curriculum": (easy, uniform),
        "anti": (hard, uniform),
        "random": (random, uniform),
        "client curriculum": (shuffled, easy_clients),
        "both curricula": (easy, easy_clients),
    }

    def scenario(plan: BatchPlan, selection: Selection[Any]) -> Scenario:
        return image_scenario(
            small=True,
            alpha=0.2,
            strategy=fedavg(steps=sgd(0.01, momentum=0.9, weight_decay=5e-4)),
            plan=plan,
            selection=selection,
            aggregator=mean(),
            rounds=40 if small else 100,
            evaluate_every=2,
        )

    return Study(
        paper="When Do Curricula Work in Federated Learning?, ICCV 2023, arXiv:2212.12712",
        setting=(
            "Fashion-MNIST, Dirichlet 0.2, 100 clients, 10 a round, linear pacing from 0.2 to all "
            f"at 0.8, {epochs} epochs"
        ),
        arms=tuple(
            Arm(name=name, scenario=scenario(*made), published=PUBLISHED.get(name))
            for name, made in arms.items()
        ),
        claims=CLAIMS,
        seeds=seeds,
        last=5,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
