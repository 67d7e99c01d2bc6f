"""DP-FTRL at the server: each release takes back a part of the noise of those before it.

Papers    Denisov et al. (2022), arXiv:2202.08312 (the mechanism, adaptively);
          Choquette-Choo et al. (2024), arXiv:2310.06771 (nu-DP-FTRL);
          Choquette-Choo et al. (2023), arXiv:2306.08153 (BandMF); the families are in
          privacy/matrix_factorization
Unit      a client with all its examples, across rounds; the population is public
Relation  zero-out: all updates of one client replaced by zeros at once
Noise     the server, once a round
Protects  from anyone who sees the models; the server and the channel to it are trusted
Notation  M the strategy matrix, C clip norm, z noise multiplier, Z_t independent normal numbers

Round t:

    1  x_t = the sum of the cohort's updates, each clipped to C
    2  x_t + z C (M^-1 Z)_t, divided by what the cohort weighs on average

M applied to the releases is M x + z C Z: one Gaussian mechanism for all of them, with mu = s / z
and s the largest change of M x by one unit of norm 1. s depends on how often and how far apart a
unit takes part, so units must take turns: cohorts in turn. Sampling amplifies nothing but a banded
M with clients in as many groups, of which one has its turn in each round.

Deviations  none. The clip norm is fixed: one that moves would rescale noise that is already out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import PrivacyError
from fedsim.core.ledger import Entry
from fedsim.core.scenario import Exposure, Mechanism, Scenario
from fedsim.core.trees import Tree
from fedsim.core.updates import Aggregate, Bounded, Noise, Released, Update
from privacy import validate
from privacy.accounting.ledger_account import LedgerAccount
from privacy.accounting.releases import (
    CorrelatedRounds,
    Release,
    SampledGaussian,
    multiplier_of,
)
from privacy.matrix_factorization import Factorization, Single, rebuild_strategy, sensitivity
from privacy.mechanisms.client_dp import asked_by, refuse_integers, sampler_of, with_noise
from privacy.mechanisms.client_dp import objection as refused_by_client_dp
from privacy.mechanisms.clipping import Clip, flat, layer_squares, scaled
from privacy.mechanisms.entry_reader import (
    AuditModel,
    EntryReader,
    factorization_of,
    written_by,
)


def correlated_noise(
    factorization: Factorization,
    *,
    noise_multiplier: float,
    clip: Clip | float = 1.0,
    delta: float = 1e-5,
) -> Mechanism[tuple[Tensor, ...]]:
    """Client-level: noise that is correlated across rounds, added by the server.

    Args:
        factorization: M, for at least as many rounds as the run has.
        noise_multiplier: z, of Z, over the clip norm.
        clip: a clipping rule, or the C of flat clipping.
        delta: at which epsilon is given.

    Unit: a client. Relation: zero-out. Sensitivity: C times that of M under the rounds in which
    each client takes part. Noise by: the server. Protects from: anyone who sees the models.

    Raises:
        PrivacyError: a number is out of its range. (Before a run:) clients do not take turns, the
            aggregator divides by what is not public, or the run has more rounds than M.

    Guarantees:
        Killed and resumed, the noise is that of a run that was not.
        With independent noise it is client_dp, bit for bit.
    """
    rule = checked("correlated_noise", noise_multiplier, clip, delta)

    def init(like: Tree) -> tuple[Tensor, ...]:
        refuse_integers("correlated_noise", like)
        return factorization.buffers(trees.flatten(like))

    def bound(state: tuple[Tensor, ...], update: Update) -> Bounded:
        diff = scaled(update.diff, rule.factors(layer_squares(update.diff)))  # line 1
        return Bounded(diff, update.num_examples, l2_bound=rule.bound)

    def release(
        state: tuple[Tensor, ...], aggregate: Aggregate, noise: Noise
    ) -> tuple[Released, tuple[Tensor, ...]]:
        like, t = aggregate.diff, noise.round_num - 1

        def draw(back: int) -> Tensor:
            ones = {name: torch.zeros_like(tensor) for name, tensor in like.items()}
            if back > t:
                return trees.flatten(ones)
            return trees.flatten(with_noise(ones, 1.0, noise.stream(t - back + 1)))

        correlated, state = factorization.step(state, t, draw)
        std = noise_multiplier * rule.bound * aggregate.l2_sensitivity
        tree = trees.add_scaled(like, trees.unflatten(correlated, like), std)  # line 2
        return Released(tree, aggregate.share), state

    def spend(state: tuple[Tensor, ...], exposure: Exposure) -> tuple[Entry, ...]:
        entry = Entry(
            round=exposure.round_num,
            unit="client",
            relation="zero_out",
            mechanism="correlated",
            sampler=sampler_of(exposure),
            sensitivity=rule.bound,
            noise_std=noise_multiplier * rule.bound,
            noise_multiplier=noise_multiplier,
            clients=tuple(exposure.cohort) if _in_turn(exposure.scenario) else (),
            details=described(factorization),
        )
        return (entry,)

    def objection(scenario: Scenario) -> str | None:
        if scenario.rounds > factorization.rounds:
            return (
                f"correlated_noise: rounds must be at most {factorization.rounds}, for which the "
                f"noise is made; got {scenario.rounds}. Make it for more."
            )
        groups = scenario.selection.sampling.groups
        if groups is not None and groups < bands_of(factorization):
            return (
                f"correlated_noise: groups must be at least the bands, {bands_of(factorization)}; "
                f"got {groups}. Sampling amplifies nothing else."
            )
        if groups is None and not _in_turn(scenario):
            return (
                "correlated_noise: selection must have clients take turns; got "
                f"{scenario.selection.name}. Use cyclic, or poisson_groups for a banded strategy."
            )
        return refused_by_client_dp("correlated_noise", scenario)

    return Mechanism(
        name=f"correlated_noise({factorization.name}, z={noise_multiplier:g}, {rule.name})",
        unit="client",
        relation="zero-out",
        noise_by="the server, once a round",
        protects_from="anyone who sees the models; the server is trusted",
        statement=(
            f"Clients: updates clipped by {rule.name}, {factorization.name} noise of multiplier "
            f"{noise_multiplier:g} across rounds, added by a trusted server; epsilon at delta "
            f"{delta:g}."
        ),
        init=init,
        bound=bound,
        release=release,
        spend=spend,
        account=lambda: LedgerAccount(delta, READER.release),
        objection=objection,
        norm=lambda state: rule.bound,
        missing_counts_as_zero=True,
        canaries="clients",
    )


def _in_turn(scenario: Scenario) -> bool:
    return scenario.selection.sampling.kind == "cyclic"


def bands_of(factorization: Factorization) -> int:
    """How many bands M has: rows as far apart have no noise in common."""
    strategy = factorization.strategy
    if strategy.ndim == 1:
        return int(np.flatnonzero(strategy)[-1]) + 1
    below, across = np.nonzero(strategy)
    return int((below - across).max()) + 1


def checked(who: str, noise_multiplier: float, clip: Clip | float, delta: float) -> Clip:
    """The clipping rule, where the numbers are in their ranges.

    Raises:
        PrivacyError: one is not.
    """
    validate.noise(who, noise_multiplier, zero_allowed=False)
    validate.delta(who, delta)
    rule = flat(clip) if isinstance(clip, int | float) else clip
    if not math.isfinite(rule.bound):
        raise PrivacyError(f"{who}: clip must have a bound; got {rule.name}. Use flat(1.0).")
    return rule


def described(factorization: Factorization) -> Mapping[str, Any]:
    """What a ledger line needs to make the factorization again."""
    return {
        "factorisation": {  # spelled as in ledgers written so far
            "name": factorization.name,
            "parameters": factorization.parameters,
            "rounds": factorization.rounds,
        }
    }


def _release(entry: Entry) -> Release:
    made, z = factorization_of(entry.details), multiplier_of(entry)
    if entry.sampler["kind"] != "grouped":
        return CorrelatedRounds(noise_multiplier=z, factorization=made)
    longest = sensitivity(rebuild_strategy(made), Single()).value
    # A round of a unit has no noise in common with its other ones: each is a release by itself.
    return SampledGaussian(
        sampling_prob=float(entry.sampler["sampling_prob"]), noise_multiplier=z / longest
    )


READER = EntryReader(
    wrote=written_by("client", "correlated"),
    release=_release,
    audit=lambda entry: AuditModel(
        noise=entry.noise_std / entry.sensitivity,
        factorization=factorization_of(entry.details),
        cohorts_follow_sampler=True,
        **asked_by(entry.sampler),
    ),
)
