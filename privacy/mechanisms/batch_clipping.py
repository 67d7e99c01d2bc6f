"""Batch clipping: the batch's own gradient is clipped, once, and shuffling is all that is asked.

Paper     van Dijk, Nguyen (2023), "Generalizing DP-SGD with shuffling and batch clipping",
          arXiv:2212.05796
Unit      an example of a client; the client's number of examples is public
Relation  zero-out, or any example for another: 2 C covers both; how many there are is public
Noise     each client, in every local step
Protects  from the server, from the other clients, and from anyone who sees models or updates
Notation  C clip norm, sigma noise multiplier, B the public batch size, E epochs, g size of a group

Every local step of a client:

    1  a = (sum of the batch's gradients) / B; an example that is not finite counts as 0
    2  U = a min(1, C / ||a||)
    3  the step's gradient is U + N(0, (2 C sigma)^2)

One example moves U by 2 C at most, not C: it can turn it. Each epoch has it in one batch:

    mu = sqrt(g E) / sigma

Deviations  the inner optimiser of the paper is a gradient of the batch here. mu is re-derived
    (docs/guides/privacy.md); it does not depend on the number of batches, and nothing is amplified.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedsim.core.example_rule import ExampleRule, Question
from fedsim.core.ledger import Entry
from fedsim.core.scenario import Mechanism
from fedsim.core.trees import Tree
from fedsim.training.per_example import example_sums
from privacy import validate
from privacy.accounting.ledger_account import LedgerAccount
from privacy.mechanisms import example_level
from privacy.mechanisms.clipping import flat, layer_squares, scaled
from privacy.mechanisms.entry_reader import AuditModel, EntryReader, written_by


def batch_clipping(
    *, noise_multiplier: float, clip_norm: float = 1.0, delta: float = 1e-5
) -> Mechanism[tuple[()]]:
    """A clipped gradient of each batch, with noise (lines 1 to 3).

    Args:
        noise_multiplier: sigma, the noise's standard deviation over the sensitivity 2 C.
        clip_norm: C, of the mean gradient of a batch.
        delta: at which epsilon is given.

    Unit: an example. Relation: zero-out. Sensitivity: 2 C, of a step's mean gradient.
    Noise by: the client. Protects from: the server and everyone after it.

    Raises:
        PrivacyError: a number is out of its range. (Before a run:) batches are drawn with
            replacement or by what the data say, or the strategy asks for losses.

    Guarantees:
        No example moves a step's gradient by more than 2 C.
    """
    validate.noise("batch_clipping", noise_multiplier, zero_allowed=False)
    validate.length("batch_clipping", clip_norm=clip_norm)
    validate.delta("batch_clipping", delta)
    rule = flat(clip_norm)

    def whole(squares: dict[str, Tensor]) -> dict[str, Tensor]:
        return {path: torch.ones_like(square) for path, square in squares.items()}

    def answer(question: Question[Any]) -> tuple[Tree, Tensor, tuple[()]]:
        asked, expected = question.asked, question.facts.expected
        sums = example_sums(
            question.task,
            asked.params,
            asked.batch,
            whole,
            penalty=question.penalty,
            held=asked.held,
        )
        mean = {
            name: total / example_level.column(expected, total)
            for name, total in sums.totals[0].items()
        }  # line 1
        short = scaled(mean, rule.factors(layer_squares(mean)))  # line 2
        noise = example_level.drawn(example_level.key_of(question), short)
        std = 2 * clip_norm * noise_multiplier
        return example_level.noised(short, noise, std, torch.ones_like(expected)), sums.losses, ()

    return Mechanism(
        name=f"batch_clipping(z={noise_multiplier:g}, C={clip_norm:g})",
        unit="example",
        relation="zero-out",
        noise_by="each client, in every local step",
        protects_from="the server, other clients, and anyone who sees models or updates",
        statement=(
            f"Examples: each batch's gradient clipped to {clip_norm:g}, noise multiplier "
            f"{noise_multiplier:g}, added by each client; epsilon at delta {delta:g}."
        ),
        bound=example_level.bound,
        release=example_level.release,
        example_rule=ExampleRule(answer=answer),
        spend=example_level.spend(
            mechanism="gaussian",
            sensitivity=2 * clip_norm,
            noise_multiplier=noise_multiplier,
            details=lambda sampling: {"batch_clip_norm": clip_norm},
        ),
        account=lambda: LedgerAccount(delta, READER.release),
        objection=example_level.objection("batch_clipping", "shuffled", "ordered", "poisson"),
        norm=lambda state: clip_norm,
        canaries="examples",
    )


def _wrote(entry: Entry) -> bool:
    """Entries are those of dp_sgd but for the clip norm of batches in their details."""
    return written_by("example", "gaussian")(entry) and "batch_clip_norm" in entry.details


READER = EntryReader(
    wrote=_wrote,
    release=example_level.gaussian_release,
    audit=lambda entry: AuditModel(
        noise=entry.noise_std / float(entry.details["batch_clip_norm"]), sums_in_steps=False
    ),
    caveats=example_level.caveats,
)
