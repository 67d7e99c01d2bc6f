"""DP-SGD, with the noise at the clients: every example is protected from everyone else.

Paper     Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang (2016), "Deep learning with
          differential privacy", arXiv:1607.00133, algorithm 1
Unit      an example of a client; the client's number of examples n is public
Relation  zero-out: an example's gradients replaced by zeros (for Poisson batches the numbers are
          those of adding or removing it)
Noise     each client, in every local step; the client itself is trusted with its examples
Protects  from the server, from the other clients, and from anyone who sees models or updates
Notation  q sampling probability, C clip norm, z noise multiplier, n examples of the client

Every local step of a client:

    1  S = each example by itself with probability q                      (the batch plan's part)
    2  g_i = gradient of example i in S; 0 where it is not finite
    3  g_i = g_i min(1, C / ||g_i||)
    4  the step's gradient is (sum_i g_i + N(0, z^2 C^2)) / (q n)

Deviations  a strategy that asks for m gradients in a step asks them of one S: that is one release
    with multiplier z / sqrt(m), and not m releases, because an example in S is in all of them.
    Batches that are not Poisson get no amplification.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedsim.core.example_rule import ExampleRule, Question
from fedsim.core.rng import mix, normals
from fedsim.core.scenario import Mechanism
from fedsim.core.trees import Tree
from fedsim.training.per_example import example_sums, total_of
from privacy import validate
from privacy.accounting.ledger_account import LedgerAccount
from privacy.mechanisms import example_level
from privacy.mechanisms.clipping import (
    Clip,
    Quantile,
    flat,
    followed,
    shortened,
    split,
    uncharged,
)
from privacy.mechanisms.entry_reader import AuditModel, EntryReader, written_by

KINDS = ("poisson", "shuffled", "ordered")


def dp_sgd(
    *, noise_multiplier: float, clip: Clip | Quantile | float = 1.0, delta: float = 1e-5
) -> Mechanism[tuple[()]]:
    """Gradients of clipped examples with Gaussian noise (lines 1 to 4).

    Args:
        noise_multiplier: z, the noise's standard deviation over the clip norm.
        clip: a clipping rule, or the C of flat clipping.
        delta: at which epsilon is given; far below one over the number of examples.

    Unit: an example. Relation: zero-out. Sensitivity: C, of a step's sum of gradients.
    Noise by: the client. Protects from: the server and everyone after it.

    Raises:
        PrivacyError: a number is out of its range. (Before a run:) batches are drawn with
            replacement or by what the data say, or the strategy asks for losses.

    Guarantees:
        No example moves a step's sum by more than C.
        An example whose gradient is not finite contributes nothing.
        An empty batch is a step like any other: noise is added, and charged.
    """
    validate.noise("dp_sgd", noise_multiplier, zero_allowed=False)
    validate.delta("dp_sgd", delta)
    rule = flat(clip) if isinstance(clip, int | float) else clip
    details = split(rule, noise_multiplier)
    if isinstance(rule, Quantile):
        example_rule: ExampleRule[Any] = _following(rule, details["update_noise"])
        sensitivity = 1.0  # in units of a clip norm that moves
    else:
        example_rule, sensitivity = fixed_rule(rule, noise_multiplier), rule.bound
    return Mechanism(
        name=f"dp_sgd(z={noise_multiplier:g}, {rule.name})",
        unit="example",
        relation="zero-out",
        noise_by="each client, in every local step",
        protects_from="the server, other clients, and anyone who sees models or updates",
        statement=(
            f"Examples: gradients clipped by {rule.name}, noise multiplier {noise_multiplier:g}, "
            f"added by each client; epsilon at delta {delta:g}."
        ),
        bound=example_level.bound,
        release=example_level.release,
        example_rule=example_rule,
        spend=example_level.spend(
            mechanism="gaussian",
            sensitivity=sensitivity,
            noise_multiplier=noise_multiplier,
            details=lambda sampling: details,
        ),
        account=lambda: LedgerAccount(delta, READER.release),
        objection=example_level.objection("dp_sgd", *KINDS),
        norm=lambda state: rule.start if isinstance(rule, Quantile) else rule.bound,
        canaries="examples",
    )


def fixed_rule(rule: Clip, noise_multiplier: float) -> ExampleRule[tuple[()]]:
    """Lines 2 to 4 at a clip norm that stays."""

    def answer(question: Question[tuple[()]]) -> tuple[Tree, Tensor, tuple[()]]:
        asked = question.asked
        sums = example_sums(  # lines 2 and 3
            question.task,
            asked.params,
            asked.batch,
            rule.factors,
            penalty=question.penalty,
            held=asked.held,
        )
        total = sums.totals[0]
        noise = example_level.drawn(example_level.key_of(question), total)
        std = noise_multiplier * rule.bound
        gradient = example_level.noised(total, noise, std, question.facts.expected)  # line 4
        return gradient, sums.losses, ()

    return ExampleRule(answer=answer)


def _following(rule: Quantile, multiplier: float) -> ExampleRule[Tensor]:
    """The same at a clip norm that follows a quantile of the norms, each client with its own.

    multiplier: z_u.
    """

    def memory(params: Tree) -> Tensor:
        device = next(iter(params.values())).device
        return torch.tensor(rule.start, device=device)

    def answer(question: Question[Tensor]) -> tuple[Tree, Tensor, Tensor]:
        asked, norm = question.asked, question.memory  # [k]

        def factors(squares: dict[str, Tensor]) -> dict[str, Tensor]:
            return dict.fromkeys(squares, shortened(total_of(squares).sqrt(), norm.unsqueeze(1)))

        sums = example_sums(
            question.task,
            asked.params,
            asked.batch,
            factors,
            penalty=question.penalty,
            held=asked.held,
        )
        total, norms, key = sums.totals[0], sums.norms(), example_level.key_of(question)
        real = asked.batch.mask * norms.isfinite()
        votes = (((norms <= norm.unsqueeze(1)).float() - 0.5) * real).sum(dim=1)
        votes = votes + rule.count_noise * normals(mix(key + 1), 1).squeeze(-1)
        noise = example_level.drawn(key, total)
        expected = question.facts.expected
        gradient = example_level.noised(total, noise, multiplier * norm, expected)
        return gradient, sums.losses, followed(rule, norm, votes, expected)

    return ExampleRule(answer=answer, memory=memory)


READER = EntryReader(
    wrote=written_by("example", "gaussian"),
    release=example_level.gaussian_release,
    audit=lambda entry: AuditModel(
        noise=float(entry.details.get("update_noise", entry.noise_std / entry.sensitivity))
    ),
    caveats=example_level.caveats,
    uncharged=lambda entry, name: uncharged(entry.details, entry.noise_multiplier, name),
)
