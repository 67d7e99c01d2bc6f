"""FedLD's two halves, alone and together, on small medical images (Zeng et al., MICCAI 2024).

World      PneumoniaMNIST (chest X-rays) over 12 clients, or RetinaMNIST over 5, all in every round
           full: 200 rounds; small: 60
Published  the paper's tables and images are not available, so only the direction of its claims is
           checked, on images of 28x28 pixels
Needs      medmnist/ in --data-dir
Nearest    `fedsim plan fashion_mnist_dirichlet` plans the single run that is closest to an arm
"""

from __future__ import annotations

from typing import Any, Literal

from fedsim.core.scenario import Aggregator, AnyStrategy, Scenario
from fedsim.data import medmnist
from fedsim.models.tasks import classification
from fedsim.models.vision import lenet
from fedsim.studies.study import Arm, Claim, Study
from fedsim.world import partition
from privacy import none
from scenarios.shared import knobs
from strategies import batch_plans, client_selection, fedavg, fedld, fedprox
from strategies.aggregators import mean, principal_directions
from strategies.step_rules import sgd


def study(
    *,
    small: bool = False,
    seeds: knobs.Seeds = 3,
    images: Literal["pneumonia", "retina"] = "pneumonia",
    alpha: float = 0.3,
) -> Study:
    """FedLD beside FedAvg and FedProx.

    Args:
        small: 60 rounds, for two cores and ten minutes.
        images: chest X-rays of 12 clients, or retinas of 5.
        alpha: Dirichlet concentration of the label split.
    """
    steps = sgd(0.01, momentum=0.5, weight_decay=5e-4)
    plain, directed = mean("uniform"), principal_directions(0.8)
    arms: dict[str, tuple[AnyStrategy, Aggregator[Any]]] = {
        "FedAvg": (fedavg(steps=steps), plain),
        "FedProx": (fedprox(steps=steps, mu=0.01), plain),
        "margin control alone": (fedld(steps=steps, mu=0.1), plain),
        "principal directions alone": (fedavg(steps=steps), directed),
        "FedLD": (fedld(steps=steps, mu=0.1), directed),
    }
    claims = [
        ("FedLD", "FedAvg"),
        ("FedLD", "FedProx"),
        ("margin control alone", "FedAvg"),
        ("principal directions alone", "FedAvg"),
    ]
    return Study(
        paper="FedLD, MICCAI 2024, arXiv:2408.12300",
        setting=f"{images}mnist in 28x28, Dirichlet {alpha:g}, all clients in every round, a LeNet",
        arms=tuple(
            Arm(
                name=name,
                scenario=_scenario(strategy, combine, images, alpha, 60 if small else 200),
            )
            for name, (strategy, combine) in arms.items()
        ),
        claims=tuple(Claim(says=f"{a} beats {b}", arm=a, than=b) for a, b in claims),
        seeds=seeds,
        last=5,
    )


def _scenario(
    strategy: AnyStrategy,
    combine: Aggregator[Any],
    images: Literal["pneumonia", "retina"],
    alpha: float,
    rounds: int,
) -> Scenario:
    population, classes, channels = (12, 2, 1) if images == "pneumonia" else (5, 5, 3)
    return Scenario(
        data=medmnist(f"{images}mnist"),
        split=partition.dirichlet(alpha),
        task=classification("lenet", lambda: lenet(classes, channels)),
        strategy=strategy,
        plan=batch_plans.shuffled_epochs(epochs=1, batch_size=50),
        selection=client_selection.uniform(),
        aggregator=combine,
        mechanism=none(),
        population=population,
        cohort=population,
        rounds=rounds,
        evaluate_every=4,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
