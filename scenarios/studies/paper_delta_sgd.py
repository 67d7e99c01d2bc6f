"""Delta-SGD, untuned, beside rules with the learning rates of another task (Kim et al., ICLR 2024).

The claim: without tuning it is as good as each other rule, where learning rates that were tuned on
one data set and model are used on others.

World      full: CIFAR-10, Dirichlet 0.1, ResNet-18 with GroupNorm, 2000 rounds
           small: Fashion-MNIST, Dirichlet 0.1, a LeNet, 50 rounds
Published  no table of numbers; the abstract says that Delta-SGD is first in 73 % and first or
           second in all of its experiments
Needs      cifar10/ or fashion_mnist/ in --data-dir
Nearest    `fedsim plan fashion_mnist_dirichlet` plans the single run that is closest to an arm
"""

from __future__ import annotations

from typing import Any

from fedsim.core.step_rule import StepRule
from fedsim.studies.study import Arm, Claim, Study
from scenarios.shared import knobs
from scenarios.shared.papers import image_scenario
from strategies import batch_plans, fedavg
from strategies.aggregators import mean
from strategies.step_rules import adagrad, adam, delta_sgd, sgd


def study(*, small: bool = False, seeds: knobs.Seeds = 3, alpha: float = 0.1) -> Study:
    """Delta-SGD with its defaults beside SGD, momentum, Adam and Adagrad.

    Args:
        small: Fashion-MNIST and 50 rounds, for two cores and ten minutes.
        alpha: Dirichlet concentration of the label split; 1, 0.1 and 0.01 in the paper.
    """
    rules: dict[str, StepRule[Any]] = {
        "Delta-SGD": delta_sgd(),
        "SGD 0.1": sgd(0.1),
        "momentum 0.01": sgd(0.01, momentum=0.9),  # as long a step, in the long run, as SGD's 0.1
        "Adam 0.001": adam(1e-3),
        "Adagrad 0.01": adagrad(1e-2),
    }
    first, *others = rules
    data = "Fashion-MNIST and a LeNet" if small else "CIFAR-10 and ResNet-18 with GroupNorm"
    return Study(
        paper="Delta-SGD, ICLR 2024, arXiv:2306.11201",
        setting=f"{data}, Dirichlet {alpha:g}, 100 clients, 10 a round, 1 local epoch, batch 64",
        arms=tuple(
            Arm(
                name=name,
                scenario=image_scenario(
                    small=small,
                    alpha=alpha,
                    strategy=fedavg(steps=rule),
                    plan=batch_plans.shuffled_epochs(epochs=1, batch_size=64),
                    aggregator=mean("uniform"),
                    rounds=50 if small else 2000,
                    evaluate_every=2 if small else 20,
                ),
            )
            for name, rule in rules.items()
        ),
        claims=tuple(
            Claim(says=f"Delta-SGD beats {name}", arm=first, than=name) for name in others
        ),
        seeds=seeds,
        last=5,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
