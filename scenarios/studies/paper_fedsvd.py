"""FedSVD beside FFA-LoRA and FedAvg of both halves, also with noise (Lee et al., NeurIPS 2025).

World      full: SST-2, RoBERTa-large (the extra `transformers`; --width 1), 6 clients, 3 a round,
           Dirichlet 0.5, 100 rounds of 10 steps of 128; small: half of SST-2, a width of 64 and
           steps of 32, 30 rounds
Published  the paper's table of test accuracies, SST-2: without privacy, and at epsilon 6
Privacy    "noised": DP-SGD for epsilon 6 at delta 1e-5, for a client that takes part in every round
Needs      sst2/ in --data-dir
Nearest    `fedsim plan text_lora` plans the single run that is closest to an arm
"""

from __future__ import annotations

from typing import Any

from fedsim.studies.study import Arm, Claim, Study
from scenarios import text_lora
from scenarios.shared import knobs
from scenarios.shared.budgets import poisson_noise

ARMS: dict[str, dict[str, Any]] = {
    "FedAvg-LoRA": {"strategy": "fedavg_lora"},
    "FFA-LoRA": {"strategy": "ffa_lora"},
    "FFA-LoRA, orthonormal A": {"strategy": "ffa_lora", "a_start": "orthonormal"},
    "FedSVD": {"strategy": "fedsvd"},
}
PUBLISHED = {  # the noised ones are at epsilon 6
    "FedAvg-LoRA": 0.8589,
    "FFA-LoRA": 0.9406,
    "FedSVD": 0.9426,
    "FedAvg-LoRA, noised": 0.8941,
    "FFA-LoRA, noised": 0.9142,
    "FedSVD, noised": 0.9132,
}
EPSILON, DELTA, SAMPLING_PROB = 6.0, 1e-5, 0.006  # the probability of a text in a step
EXACT = "FedSVD from orthonormal A"
FASTER = "FFA-LoRA, 3 times the learning rate"  # A's usual rows have a squared norm of 1/3


def study(
    *,
    small: bool = False,
    seeds: knobs.Seeds = 3,
    rounds: int | None = None,
    model: str = "FacebookAI/roberta-large",
) -> Study:
    """FedSVD, FFA-LoRA from two starts of A, and FedAvg-LoRA.

    Args:
        small: the small encoder, half of the data and 30 rounds, for two cores and ten minutes.
        rounds: server steps; left out, 30 or 100.
        model: name or folder of the encoder of the full setting.
    """
    common: dict[str, Any] = {"rounds": rounds or 30, "batch_size": 32, "evaluate_every": 3}
    if not small:
        common = {"rounds": rounds or 100, "batch_size": 128, "evaluate_every": 5}
        common |= {"model": model, "lora_dropout": 0.05}
    # the paper scales batches' gradients down to 1 where it adds no noise
    quiet = {"largest_gradient": 1.0}
    plain = ARMS | {
        EXACT: {"strategy": "fedsvd", "a_start": "orthonormal"},
        FASTER: {"strategy": "ffa_lora", "lr": 1.5},
    }
    arms = {name: own | quiet for name, own in plain.items()}
    steps = common["rounds"] * text_lora.LOCAL_STEPS
    noise = poisson_noise(EPSILON, DELTA, sampling_prob=SAMPLING_PROB, steps=steps)
    noised: dict[str, Any] = {"clip_norm": 2.0, "noise_multiplier": noise}
    noised |= {"sampling_prob": SAMPLING_PROB, "delta": DELTA}
    arms |= {f"{name}, noised": own | noised for name, own in ARMS.items()}
    return Study(
        paper="FedSVD, NeurIPS 2025, arXiv:2505.12805",
        setting=(
            "half of SST-2, a small encoder trained by us on the other half; the published numbers "
            "are of RoBERTa-large: compare the order, not the size. Noised: epsilon 6 for a "
            "client in every round"
            if small
            else "as published; noised: epsilon 6 for a client in every round"
        ),
        arms=tuple(
            Arm(
                name=name,
                scenario=text_lora.scenario(**common, **own),
                published=PUBLISHED.get(name),
            )
            for name, own in arms.items()
        ),
        claims=_claims(),
        seeds=seeds,
        last=4,
    )


def _claims() -> tuple[Claim, ...]:
    """The paper's order of the arms, and what is the same by algebra."""
    return (
        *_beats("FedSVD", "FFA-LoRA", "FedAvg-LoRA"),
        *_beats("FedSVD, noised", "FFA-LoRA, noised", "FedAvg-LoRA, noised"),
        _same(EXACT, "FFA-LoRA, orthonormal A", 0.002),
        _same("FedSVD", "FFA-LoRA, orthonormal A", 0.01),
        _same("FedSVD", FASTER, 0.01),
        _same("FedSVD, noised", "FFA-LoRA, orthonormal A, noised", 0.03),
    )


def _beats(arm: str, *others: str) -> tuple[Claim, ...]:
    """The paper's claims."""
    return tuple(Claim(says=f"{arm} beats {than}", arm=arm, than=than) for than in others)


def _same(arm: str, than: str, within: float) -> Claim:
    """By algebra: rotating A and B changes neither SGD nor clipping nor noise."""
    says = f"{arm} is {than}, to {within:g}"
    return Claim(says=says, arm=arm, than=than, kind="same", within=within)


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
