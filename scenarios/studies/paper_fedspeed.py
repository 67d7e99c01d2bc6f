"""FedSpeed beside FedAvg and the drift corrections before it (Sun et al., ICLR 2023).

World      full: CIFAR-10, Dirichlet 0.3, 100 clients, ResNet-18 with GroupNorm, 1000 rounds
           small: Fashion-MNIST, Dirichlet 0.1, 100 clients, a LeNet, 60 rounds
Published  the table of the authors' own repository: CIFAR-10, 10 % of 100 clients, batch 50
Needs      cifar10/ or fashion_mnist/ in --data-dir
Nearest    `fedsim plan fashion_mnist_dirichlet` plans the single run that is closest to an arm
"""

from __future__ import annotations

from fedsim.core.scenario import AnyStrategy, Scenario
from fedsim.studies.study import Arm, Claim, Study
from scenarios.shared import knobs
from scenarios.shared.papers import image_scenario
from strategies import batch_plans, fedavg, fedcm, feddyn, fedspeed, scaffold
from strategies.aggregators import mean
from strategies.step_rules import sgd

PUBLISHED = {  # test accuracy at Dirichlet 0.3, the best of 1000 rounds
    "FedAvg": 0.7975,
    "SCAFFOLD": 0.8275,
    "FedDyn": 0.8322,
    "FedCM": 0.8344,
    "FedSpeed": 0.8539,
}
BEATS = (  # an arm, and one that it beats in the paper
    ("FedSpeed", "FedAvg"),
    ("FedDyn", "FedAvg"),
    ("SCAFFOLD", "FedAvg"),
    ("FedSpeed", "FedDyn"),
    ("FedSpeed", "SCAFFOLD"),
)


def study(*, small: bool = False, seeds: knobs.Seeds = 3, rounds: int | None = None) -> Study:
    """FedSpeed beside FedAvg, SCAFFOLD, FedDyn and FedCM.

    Args:
        small: Fashion-MNIST and 60 rounds, for two cores and ten minutes.
        rounds: server steps; left out, 60 or 1000.
    """
    # Weight decay and the decay of the learning rate are the authors'; a LeNet needs neither.
    steps = sgd(0.1) if small else sgd(0.1, weight_decay=1e-3, decay=0.998)
    # lam so that 1 - (1 - lr / lam)^K is about a half, with K steps a round
    lam = 3.0 if small else 10.0
    strategies: dict[str, AnyStrategy] = {
        "FedAvg": fedavg(steps=steps),
        "SCAFFOLD": scaffold(steps=steps),
        "FedDyn": feddyn(steps=steps, strength=1 / lam),
        "FedCM": fedcm(steps=steps, alpha=0.1),
        "FedSpeed": fedspeed(steps=steps, lam=lam, rho=0.1),
    }

    def scenario(strategy: AnyStrategy) -> Scenario:
        return image_scenario(
            small=small,
            alpha=0.1 if small else 0.3,
            strategy=strategy,
            plan=batch_plans.shuffled_epochs(epochs=2 if small else 5, batch_size=50),
            aggregator=mean("uniform"),
            rounds=rounds or (60 if small else 1000),
            evaluate_every=2 if small else 10,
        )

    return Study(
        paper="FedSpeed, ICLR 2023, arXiv:2302.10429",
        setting=(
            "Fashion-MNIST, Dirichlet 0.1, 100 clients, 10 a round, 2 local epochs; the published "
            "numbers are of CIFAR-10 and ResNet-18: compare the order, not the size"
            if small
            else "as published, but for the split (the authors' clients are all of one size)"
        ),
        arms=tuple(
            Arm(name=name, scenario=scenario(strategy), published=PUBLISHED[name])
            for name, strategy in strategies.items()
        ),
        claims=tuple(Claim(says=f"{arm} beats {than}", arm=arm, than=than) for arm, than in BEATS),
        seeds=seeds,
        last=5,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
