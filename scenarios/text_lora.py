"""Adapters on a frozen text encoder: FedSVD, FFA-LoRA or FedAvg of both halves.

World      half of SST-2's or AG News's training texts, Dirichlet(alpha) over `population` clients
Model      a transformer encoder of 2 layers and width 64, pretrained here on the other half, with
           a new classifier that stays frozen; or any encoder of `transformers`
Lesson     what training B alone changes in B A, and how that depends on the initial A
Source     Lee et al. (2025), arXiv:2505.12805: 6 clients, 3 a round, Dirichlet 0.5, 10 steps
Needs      sst2/ or ag_news/ in --data-dir; the first run pretrains the base, in half a minute
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from torch import nn

from fedsim.core.errors import InputError
from fedsim.core.scenario import AnyStrategy, Mechanism, Scenario
from fedsim.core.step_rule import StepRule
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.data import ag_news, sst2
from fedsim.data.text import hashed_words
from fedsim.models.huggingface import huggingface_model, huggingface_tokenizer
from fedsim.models.lora import adapt
from fedsim.models.pretraining import pretrain
from fedsim.models.tasks import classification, load_weights
from fedsim.models.transformer import encoder
from fedsim.world import partition
from privacy import dp_sgd, none
from scenarios.shared import knobs
from strategies import batch_plans, client_selection, fedavg, fedsvd, ffa_lora
from strategies.aggregators import mean
from strategies.step_rules import adam, clipped, sgd

Dataset = Literal["sst2", "ag_news"]
Name = Literal["fedsvd", "ffa_lora", "fedavg_lora"]
Start = Literal["kaiming", "orthonormal"]
LOCAL_STEPS = 10
_SOURCES = {"sst2": (sst2, 2, 32), "ag_news": (ag_news, 4, 64)}  # classes, tokens of a text


def scenario(
    *,
    dataset: Dataset = "sst2",
    strategy: Name = "fedsvd",
    alpha: knobs.Alpha = 0.5,
    population: knobs.Population = 6,
    cohort: knobs.Cohort = 3,
    rounds: knobs.Rounds = 40,
    local_steps: knobs.LocalSteps = LOCAL_STEPS,
    batch_size: int = 32,
    rule: Literal["sgd", "adam"] = "sgd",
    lr: float = 0.5,
    largest_gradient: float = 0.0,
    rank: int = 8,
    lora_alpha: float = 8.0,
    lora_dropout: float = 0.0,
    a_start: Start = "kaiming",
    period: int = 1,
    adapted: str = r"(query|value)$",
    clip_norm: float = 0.0,
    noise_multiplier: float = 0.0,
    sampling_prob: float = 0.006,
    delta: knobs.Delta = 1e-5,
    model: str = "small",
    evaluate_every: knobs.EvaluateEvery = 5,
) -> Scenario:
    """Texts, and adapters on a frozen encoder.

    Args:
        dataset: film reviews of 2 kinds, or news of 4.
        strategy: FedSVD, FFA-LoRA, or FedAvg of A and B.
        batch_size: texts a local step.
        rule: how a client steps; its state starts anew in every round.
        lr: the clients' learning rate; 0.5 is for sgd, adam wants about 0.005.
        largest_gradient: the norm to which a batch's gradient is scaled down; 0 is never.
        rank: of the adapters.
        lora_alpha: the adapters' term is scaled by lora_alpha / rank.
        lora_dropout: of the adapters' inputs.
        a_start: initial A; orthonormal rows span the same space as the usual ones.
        period: rounds from one SVD of fedsvd to the next; 0 is never.
        adapted: a regular expression found in the names of the layers that get adapters.
        clip_norm: of every text's gradient, for DP-SGD; 0 is none.
        noise_multiplier: of the noise on a step's sum of clipped gradients; 0 is none.
        sampling_prob: of a text in a step under DP-SGD, in place of a batch_size.
        model: small, or the name or folder of an encoder of transformers (run with --width 1).
    """
    steps: StepRule[Any] = sgd(lr) if rule == "sgd" else adam(lr)
    if largest_gradient:
        steps = clipped(steps, largest_gradient)
    source, _, length = _SOURCES[dataset]
    task = _task(
        dataset,
        model,
        partial(
            adapt,
            pattern=adapted,
            rank=rank,
            alpha=lora_alpha,
            dropout=lora_dropout,
            orthonormal=a_start == "orthonormal",
        ),
    )
    words = hashed_words(length=length) if model == "small" else huggingface_tokenizer(model, 128)
    return Scenario(
        data=source(tokenizer=words, half="private" if model == "small" else "all"),
        split=partition.dirichlet(alpha),
        task=task,
        strategy=_strategy(strategy, steps, period or None),
        plan=batch_plans.poisson_batches(steps=local_steps, sampling_prob=sampling_prob)
        if noise_multiplier
        else batch_plans.random_batches(steps=local_steps, batch_size=batch_size),
        selection=client_selection.uniform(),
        aggregator=mean(),
        mechanism=_mechanism(clip_norm, noise_multiplier, delta),
        population=population,
        cohort=cohort,
        rounds=rounds,
        evaluate_every=evaluate_every,
    )


def _strategy(name: Name, steps: StepRule[Any], period: int | None) -> AnyStrategy:
    if name == "fedavg_lora":
        return replace(fedavg(steps=steps), name="fedavg_lora")
    return ffa_lora(steps=steps) if name == "ffa_lora" else fedsvd(steps=steps, period=period)


def _task(dataset: Dataset, model: str, put: Callable[[nn.Module], nn.Module]) -> Task:
    """The task; the small encoder's base is trained when a run begins and the data are at hand.

    put: model -> the same with adapters.
    """
    source, num_classes, length = _SOURCES[dataset]
    words = hashed_words(length=length)

    if model != "small":
        return classification(model, lambda: put(huggingface_model(model, num_classes)))

    def plain() -> nn.Module:
        return encoder(vocabulary=words.vocabulary, num_classes=num_classes, length=length)

    def with_base(weights: Tree) -> Task:
        def build() -> nn.Module:
            base = plain()
            body = {name: w for name, w in weights.items() if not name.startswith("head.")}
            base.load_state_dict(body, strict=False)  # the classifier stays fresh
            return put(base)

        return classification("encoder", build)

    return load_weights(with_base, pretrain(source(tokenizer=words, half="public"), plain))


def _mechanism(clip_norm: float, noise_multiplier: float, delta: float) -> Mechanism[Any]:
    """DP-SGD where there is noise, else none.

    Raises:
        InputError: one of the two is given without the other.
    """
    if (clip_norm > 0) != (noise_multiplier > 0):
        raise InputError(
            "text_lora: clip_norm and noise_multiplier must be given together; got "
            f"{clip_norm:g} and {noise_multiplier:g}. Give both, such as 2 and 1, or neither."
        )
    if not clip_norm:
        return none()
    return dp_sgd(noise_multiplier=noise_multiplier, clip=clip_norm, delta=delta)


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
