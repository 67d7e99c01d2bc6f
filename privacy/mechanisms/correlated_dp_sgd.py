"""DP-FTRL at the clients: each local step takes back a part of the noise of those before it.

Papers    as in privacy/mechanisms/correlated_client_dp.py
Unit      an example of a client, across its local steps in all rounds; their number is public
Relation  zero-out: all gradients of one example replaced by zeros at once
Noise     each client, in every local step
Protects  from the server, from the other clients, and from anyone who sees models or updates
Notation  M the strategy matrix, C clip norm, z noise multiplier, Z_t independent normal numbers

Local step t of a client, counted over all rounds:

    1  x_t = the sum of the batch's gradients, each clipped to C
    2  the step's gradient is (x_t + z C (M^-1 Z)_t) / B, with B the public batch size

mu = s / z as there, with s of how an example's steps lie: in ordered epochs as many steps apart as
an epoch has batches, in shuffled ones next to each other at worst. Nothing is amplified.

Deviations  none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import PrivacyError
from fedsim.core.example_rule import ExampleRule, Question
from fedsim.core.ledger import Entry
from fedsim.core.rng import normals
from fedsim.core.scenario import Exposure, Mechanism
from fedsim.core.trees import Tree
from fedsim.training.per_example import example_sums
from privacy.accounting.ledger_account import LedgerAccount
from privacy.accounting.releases import CorrelatedEpochs, Release, multiplier_of
from privacy.matrix_factorization import Factorization
from privacy.mechanisms import example_level
from privacy.mechanisms.clipping import Clip
from privacy.mechanisms.correlated_client_dp import checked, described
from privacy.mechanisms.entry_reader import (
    AuditModel,
    EntryReader,
    factorization_of,
    written_by,
)


class Stream(NamedTuple):
    """Where a client's noise is.

    step: [], int64, its steps so far. keys: [reach], int64, of the latest independent noises, the
    newest first. buffers: [d], the family's.
    """

    step: Tensor
    keys: Tensor
    buffers: tuple[Tensor, ...]


def correlated_dp_sgd(
    factorization: Factorization,
    *,
    noise_multiplier: float,
    clip: Clip | float = 1.0,
    delta: float = 1e-5,
) -> Mechanism[tuple[()]]:
    """Example-level: noise that is correlated across a client's local steps, added by the client.

    Args:
        factorization: M, for at least as many steps as a client takes in the whole run.
        noise_multiplier: z, of Z, over the clip norm.
        clip: a clipping rule, or the C of flat clipping.
        delta: at which epsilon is given.

    Unit: an example. Relation: zero-out. Sensitivity: C times that of M under the steps in which an
    example takes part. Noise by: the client. Protects from: the server and everyone after it.

    Raises:
        PrivacyError: a number is out of its range. (Before a run:) batches are drawn at random, or
            the strategy asks for losses. (Before the round:) a client has taken more steps than M
            has, or the strategy asks for several gradients in a step.

    Guarantees:
        A client's noise goes on from round to round, and after a kill.
        Work that is done again, because a reply was lost or refused, gets other noise.
    """
    rule = checked("correlated_dp_sgd", noise_multiplier, clip, delta)

    def memory(params: Tree) -> Stream:
        vector = trees.flatten(params)
        nothing = torch.zeros(factorization.reach, dtype=torch.int64, device=vector.device)
        step = torch.zeros((), dtype=torch.int64, device=vector.device)
        return Stream(step, nothing, factorization.buffers(vector))

    def answer(question: Question[Stream]) -> tuple[Tree, Tensor, Stream]:
        asked, (step, keys, buffers) = question.asked, question.memory
        # Fresh noise has the key of this very step, so that work that is done again, because a
        # reply was lost or refused, never meets the same noise on other data.
        keys = torch.cat([example_level.key_of(question).unsqueeze(1), keys], dim=1)
        sums = example_sums(
            question.task,
            asked.params,
            asked.batch,
            rule.factors,
            penalty=question.penalty,
            held=asked.held,
        )
        total = sums.totals[0]
        sizes = [tensor[0].numel() for tensor in total.values()]

        def draw(back: int) -> Tensor:
            known = normals(keys[:, back], sum(sizes))
            return torch.where((step >= back).unsqueeze(-1), known, 0)

        correlated, buffers = factorization.step(buffers, step, draw)
        parts = torch.split(correlated.to(torch.float32), sizes, dim=-1)
        noise = {
            name: part.reshape(tensor.shape)
            for (name, tensor), part in zip(total.items(), parts, strict=True)
        }
        std = noise_multiplier * rule.bound
        gradient = example_level.noised(total, noise, std, question.facts.expected)  # line 2
        latest = keys[:, : factorization.reach]
        return gradient, sums.losses, Stream(step + 1, latest, buffers)

    plain = example_level.spend(
        mechanism="correlated",
        sensitivity=rule.bound,
        noise_multiplier=noise_multiplier,
        details=lambda sampling: described(factorization),
    )

    def spend(state: tuple[()], exposure: Exposure) -> tuple[Entry, ...]:
        if exposure.calls != 1:
            raise PrivacyError(
                "correlated_dp_sgd: strategy must ask for one gradient a step; got "
                f"{exposure.calls}. Use one that does, or dp_sgd."
            )
        return plain(state, exposure)

    return Mechanism(
        name=f"correlated_dp_sgd({factorization.name}, z={noise_multiplier:g}, {rule.name})",
        unit="example",
        relation="zero-out",
        noise_by="each client, in every local step",
        protects_from="the server, other clients, and anyone who sees models or updates",
        statement=(
            f"Examples: gradients clipped by {rule.name}, {factorization.name} noise of multiplier "
            f"{noise_multiplier:g} across a client's steps; epsilon at delta {delta:g}."
        ),
        bound=example_level.bound,
        release=example_level.release,
        example_rule=ExampleRule(answer=answer, memory=memory),
        spend=spend,
        account=lambda: LedgerAccount(delta, READER.release),
        objection=example_level.objection("correlated_dp_sgd", "ordered", "shuffled"),
        norm=lambda state: rule.bound,
        canaries="examples",
    )


def _release(entry: Entry) -> Release:
    batches = int(entry.sampler.get("batches", 1))
    return CorrelatedEpochs(
        noise_multiplier=multiplier_of(entry),
        apart=batches if entry.sampler["kind"] == "ordered" else 1,
        batches=batches,
        factorization=factorization_of(entry.details),
    )


READER = EntryReader(
    wrote=written_by("example", "correlated"),
    release=_release,
    audit=lambda entry: AuditModel(
        noise=entry.noise_std / entry.sensitivity, factorization=factorization_of(entry.details)
    ),
    caveats=example_level.caveats,
)
