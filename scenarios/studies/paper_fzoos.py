"""FZooS beside finite differences, on black-box functions (Shu et al., 2023).

World      full: 50 rounds of 10 local steps (the attack: 100 of 5), every client in every round
           small: 20 rounds of the quadratics, 30 of the attack, 10 of the metric; the same else
Published  figures only, no table: in all three tasks fewer rounds and fewer queries than FedZO,
           FedProx and SCAFFOLD by finite differences
Needs      fashion_mnist/ for the attack and adult/ for the metric in --data-dir
Nearest    `fedsim plan zeroth_order` plans the single run that is closest to an arm
"""

from __future__ import annotations

from typing import Any

from fedsim.studies.study import Arm, Claim, Study
from scenarios import zeroth_order
from scenarios.shared import knobs
from scenarios.zeroth_order import ProblemName

_ROUNDS = {"quadratics": (20, 50), "attack": (30, 100), "metric": (10, 50)}  # small, full
_ARMS: dict[str, dict[str, Any]] = {
    "FZooS": {"strategy": "fzoos"},
    "FZooS, gamma = 1": {"strategy": "fzoos", "fade": False},
    "FZooS, gamma = 0": {"strategy": "fzoos", "correction": 0.0},
    "FedZO": {"strategy": "fedzo"},
    "FedProx-ZO": {"strategy": "fedprox_zo"},
    "SCAFFOLD-ZO": {"strategy": "scaffold_zo"},
}
_LOOKS = 8  # of 6 queries: the authors' code asks 50 around every new point


def study(
    *,
    small: bool = False,
    seeds: knobs.Seeds = 3,
    problem: ProblemName = "quadratics",
    unlikeness: float = 5.0,
    rounds: int | None = None,
) -> Study:
    """FZooS, with and without its correction, beside FedZO, FedProx-ZO and SCAFFOLD-ZO.

    Args:
        small: fewer rounds, for two cores and ten minutes.
        problem: the function.
        unlikeness: of the clients' quadratics; 0.5, 5 and 50 in the paper.
        rounds: server steps; left out, the paper's, or fewer if small.
    """
    steps = 5 if problem == "attack" else 10
    ours, theirs = 6 * (steps + _LOOKS), 21 * steps
    first, whole, alone, *others = _ARMS
    return Study(
        paper="FZooS, 2023, arXiv:2308.04077",
        setting=(
            f"{problem}, {steps} moves a round; FZooS asks each client {ours} queries a round, "
            f"finite differences {theirs}; the published results are figures"
        ),
        arms=tuple(
            Arm(
                name=name,
                scenario=zeroth_order.scenario(
                    problem=problem,
                    unlikeness=unlikeness,
                    rounds=rounds or _ROUNDS[problem][0 if small else 1],
                    local_steps=steps,
                    looks=_LOOKS,
                    **changes,
                ),
            )
            for name, changes in _ARMS.items()
        ),
        claims=(
            *(Claim(says=f"{first} beats {name}", arm=first, than=name) for name in others),
            *(Claim(says=f"{whole} beats {name}", arm=whole, than=name) for name in others),
            Claim(says="the correction helps", arm=first, than=alone),
        ),
        seeds=seeds,
        metric="test_accuracy" if problem == "attack" else "test_loss",
        last=3,
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
