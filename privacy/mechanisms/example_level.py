"""What all example-level mechanisms share: noise by client and step, and what a round exposes.

Shapes: k clients of a stack, d numbers of all parameters together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fedsim.core.example_rule import Question
from fedsim.core.ledger import Entry
from fedsim.core.rng import mix, normals
from fedsim.core.sampling import Sampling
from fedsim.core.scenario import Exposure, Scenario
from fedsim.core.trees import Tree
from fedsim.core.updates import Aggregate, Bounded, Noise, Released, Update
from privacy import validate
from privacy.accounting.releases import (
    Release,
    SampledGaussian,
    ShuffledGaussian,
    multiplier_of,
    no_guarantee,
)


def key_of(question: Question[Any]) -> Tensor:
    """A key for this client's noise in this call of this step and no other, [k]."""
    return mix(question.facts.key ^ mix(mix(question.asked.batch.key) + question.call))


def drawn(keys: Tensor, like: Tree) -> Tree:
    """Standard normal numbers for each key in the shapes of a stack, [k, ...]."""
    sizes = [math.prod(tensor.shape[1:]) for tensor in like.values()]
    parts = torch.split(normals(keys, sum(sizes)), sizes, dim=-1)
    return {
        name: part.reshape(tensor.shape)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }


def column(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers [k] in a shape that goes with a stack's tensor [k, ...]."""
    return numbers.reshape(-1, *(1,) * (like.dim() - 1))


def noised(total: Tree, noise: Tree, std: float | Tensor, divisor: Tensor) -> Tree:
    """(total + std * noise) / divisor, [k, ...]. std: a number, or one for each client [k]."""
    found = {}
    for name, tensor in total.items():
        if isinstance(std, float):
            sum_of = torch.add(tensor, noise[name], alpha=std)
        else:
            sum_of = torch.addcmul(tensor, noise[name], column(std, tensor))
        found[name] = sum_of.div_(column(divisor, tensor))
    return found


# --- the server's half: everything is private already --------------------------------------------


def bound(state: tuple[()], update: Update) -> Bounded:
    """Updates are made of private gradients: nothing is left to bound."""
    return Bounded(update.diff, update.num_examples, l2_bound=math.inf)


def release(state: tuple[()], aggregate: Aggregate, noise: Noise) -> tuple[Released, tuple[()]]:
    """Post-processing of what clients have made private."""
    return Released(aggregate.diff, aggregate.share), state


# --- the ledger ----------------------------------------------------------------------------------


def spend(
    *,
    mechanism: str,
    sensitivity: float,
    noise_multiplier: float,
    details: Callable[[Sampling], Mapping[str, Any]] = lambda sampling: {},
) -> Callable[[tuple[()], Exposure], tuple[Entry, ...]]:
    """What a round's local steps release: one entry for the clients that take equally many."""

    def entries(state: tuple[()], exposure: Exposure) -> tuple[Entry, ...]:
        plan = exposure.scenario.plan
        groups: dict[int, list[int]] = {}
        for client, count in zip(exposure.cohort, exposure.counts, strict=True):
            if count:
                groups.setdefault(plan.num_steps(count), []).append(client)
        return tuple(
            Entry(
                round=exposure.round_num,
                unit="example",
                relation="zero_out",
                mechanism=mechanism,
                sampler=sampler_of(plan.sampling, steps),
                sensitivity=sensitivity,
                noise_std=sensitivity * noise_multiplier,
                noise_multiplier=noise_multiplier,
                steps=steps,
                calls=exposure.calls,
                clients=tuple(clients),
                details=details(plan.sampling),
            )
            for steps, clients in sorted(groups.items())
        )

    return entries


def sampler_of(sampling: Sampling, steps: int) -> dict[str, Any]:
    """A plan's sampling as the ledger has it."""
    if sampling.kind == "poisson":
        return {
            "kind": "poisson",
            "sampling_prob": sampling.sampling_prob,
            "overflow": sampling.overflow,
        }
    passes = sampling.passes or 1
    return {"kind": sampling.kind, "passes": passes, "batches": steps // passes}


def gaussian_release(entry: Entry) -> Release:
    """Steps of Gaussian noise on sampled or shuffled batches, from their ledger's entry."""
    sampler, z = entry.sampler, multiplier_of(entry)
    if sampler["kind"] == "poisson":
        return SampledGaussian(
            sampling_prob=float(sampler["sampling_prob"]),
            noise_multiplier=z,
            overflow=float(sampler.get("overflow", 0.0)),
        )
    if sampler["kind"] in ("shuffled", "ordered"):
        return ShuffledGaussian(noise_multiplier=z, batches=int(sampler.get("batches", 1)))
    return no_guarantee(entry)


def caveats(entry: Entry, lower: float | None) -> tuple[str, ...]:
    """What a claim about batches that are not Poisson leaves open. lower: bound on epsilon."""
    if entry.sampler["kind"] not in ("shuffled", "ordered"):
        return ()
    return (
        "batches are not Poisson: nothing is amplified, and the truth lies between "
        f"{lower or 0:.4g} and the claim.",
    )


def objection(who: str, *kinds: str) -> Callable[[Scenario], str | None]:
    """Refuses plans that are not of these kinds, and choices that look at the data."""

    def reason(scenario: Scenario) -> str | None:
        leak = validate.public(who, scenario, whole_clients=False)
        if leak is not None:
            return leak
        if scenario.plan.sampling.kind not in kinds:
            return (
                f"{who}: plan must draw its batches {' or '.join(kinds)}; got "
                f"{scenario.plan.name}, {scenario.plan.sampling.words}, for which nothing is "
                "proved. Use plans.poisson_batches or one of these."
            )
        return None

    return reason
