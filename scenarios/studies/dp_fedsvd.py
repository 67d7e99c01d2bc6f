"""LoRA variants under DP-SGD at several budgets: the effect of noise on B and on B A.

World      half of SST-2 over 6 clients, a small encoder pretrained here on the other half
Privacy    example-level DP for a text against everyone but its client; Poisson batches
Lesson     training A and B multiplies noise by noise; training B alone, as FFA-LoRA and FedSVD do,
           keeps the noise linear
Source     Lee et al. (2025), arXiv:2505.12805; Sun et al. (2024), arXiv:2403.12313
Needs      sst2/ in --data-dir; the first run pretrains the base, in half a minute
Nearest    `fedsim plan text_lora` plans the single run that is closest to an arm
"""

from __future__ import annotations

from typing import Any

from fedsim.studies.study import Arm, Claim, Study
from scenarios import text_lora
from scenarios.shared import knobs
from scenarios.shared.budgets import poisson_noise

VARIANTS: dict[str, dict[str, Any]] = {
    "FedAvg-LoRA": {"strategy": "fedavg_lora"},
    "FFA-LoRA": {"strategy": "ffa_lora"},
    "FedSVD": {"strategy": "fedsvd"},
}
BUDGETS = (1.0, 6.0)
LOCAL_STEPS = 10


def study(
    *,
    seeds: knobs.Seeds = 3,
    rounds: knobs.Rounds = 30,
    clip_norm: float = 2.0,
    sampling_prob: float = 0.006,
    delta: float = 1e-5,
) -> Study:
    """FedAvg-LoRA, FFA-LoRA and FedSVD without privacy and at two budgets.

    Args:
        clip_norm: the largest norm of a text's gradient.
        sampling_prob: of a text in a step.
        delta: at which epsilon is given; a text's client may be in every round.
    """
    noises = {
        epsilon: poisson_noise(
            epsilon, delta, sampling_prob=sampling_prob, steps=rounds * LOCAL_STEPS
        )
        for epsilon in BUDGETS
    }
    arms: dict[str, dict[str, Any]] = {
        name: own | {"largest_gradient": 1.0} for name, own in VARIANTS.items()
    }
    for epsilon, noise in noises.items():
        private = {
            "clip_norm": clip_norm,
            "noise_multiplier": noise,
            "sampling_prob": sampling_prob,
            "delta": delta,
        }
        arms |= {f"{name}, epsilon {epsilon:g}": own | private for name, own in VARIANTS.items()}
    common: dict[str, Any] = {"rounds": rounds, "local_steps": LOCAL_STEPS, "evaluate_every": 3}
    return Study(
        paper="LoRA under DP-SGD, after Lee et al., NeurIPS 2025",
        setting=(
            f"half of SST-2, a small encoder, 6 clients, 3 a round, clip norm {clip_norm:g}, "
            f"{LOCAL_STEPS} Poisson steps a round with probability {sampling_prob:g}; noise for a "
            "client that is in every round, so most spend less"
        ),
        arms=tuple(
            Arm(name=name, scenario=text_lora.scenario(**common | own))
            for name, own in arms.items()
        ),
        claims=_claims(),
        seeds=seeds,
        last=3,
    )


def _claims() -> tuple[Claim, ...]:
    """At each budget, each variant that learns B alone against FedAvg of both halves."""
    return tuple(
        Claim(
            says=f"at epsilon {epsilon:g}, learning B alone beats FedAvg of both halves",
            arm=f"{name}, epsilon {epsilon:g}",
            than=f"FedAvg-LoRA, epsilon {epsilon:g}",
        )
        for epsilon in BUDGETS
        for name in ("FFA-LoRA", "FedSVD")
    )


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
