"""DP-FedAvg: whole clients are protected, by a server that is trusted with their updates.

Paper     McMahan, Ramage, Talwar, Zhang (2018), "Learning differentially private recurrent language
          models", arXiv:1710.06963, algorithm 1
Unit      a client with all its examples; the population is public
Relation  zero-out: a client's update replaced by zeros (replace-one for cohorts of fixed size)
Noise     the server, once a round
Protects  from everyone who sees the models, other clients among them; the server and the channel
          to it are trusted
Notation  q chance of a client to be asked, C clip norm, z noise multiplier, w weights, W their sum

Round t:

    1  the cohort is each client by itself with probability q        (the selection's part)
    2  u_k = everything that client k sends, clipped to C over all tensors together
    3  u = (sum_k w_k u_k + N(0, z^2 C^2)) / (q W), with w_k <= 1    (the aggregator's part)
    4  the server steps with u, whatever its strategy makes of it

Deviations  none. A cohort without any client, or whose updates are all unusable, is a round like
    any other: noise is added, the server steps, the ledger is charged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from fedsim.core.errors import PrivacyError
from fedsim.core.ledger import Entry
from fedsim.core.scenario import Exposure, Mechanism, Scenario
from fedsim.core.trees import Tree
from fedsim.core.updates import Aggregate, Bounded, Noise, Released, Update
from privacy import validate
from privacy.accounting.ledger_account import LedgerAccount
from privacy.accounting.releases import (
    FixedSizeGaussian,
    PlainGaussian,
    Release,
    SampledGaussian,
    TruncatedGaussian,
    multiplier_of,
    no_guarantee,
)
from privacy.mechanisms.clipping import (
    Clip,
    Quantile,
    flat,
    followed,
    layer_squares,
    scaled,
    shortened,
    split,
    uncharged,
)
from privacy.mechanisms.entry_reader import AuditModel, EntryReader, written_by

KINDS = ("poisson", "grouped", "fixed", "cyclic")


def client_dp(
    *, noise_multiplier: float, clip: Clip | Quantile | float = 1.0, delta: float = 1e-5
) -> Mechanism[Any]:
    """Clipped updates with Gaussian noise on their sum (lines 1 to 4).

    Args:
        noise_multiplier: z, the noise's standard deviation over the clip norm.
        clip: a clipping rule, or the C of flat clipping.
        delta: at which epsilon is given; far below one over the number of clients.

    Unit: a client. Relation: zero-out; replace-one where cohorts have a fixed size.
    Sensitivity: C times the largest weight, of the sum of updates. Noise by: the server.
    Protects from: everyone who sees the models; the server is trusted.

    Raises:
        PrivacyError: a number is out of its range. (Before a run:) the aggregator divides by
            what is not public, or clients are chosen by what their data say.

    Guarantees:
        No client moves the sum by more than C.
        An update that is not finite counts as zero.
        A round without any client is noised and charged like any other.
    """
    validate.noise("client_dp", noise_multiplier, zero_allowed=False)
    validate.delta("client_dp", delta)
    rule = flat(clip) if isinstance(clip, int | float) else clip
    moving = isinstance(rule, Quantile)
    details = split(rule, noise_multiplier)
    multiplier = details.get("update_noise", noise_multiplier)

    def init(like: Tree) -> Tensor:
        """The clip norm, []; it stays as it is where the rule does."""
        refuse_integers("client_dp", like)
        device = next(iter(like.values())).device
        start = rule.start if isinstance(rule, Quantile) else rule.bound
        return torch.tensor(start, dtype=torch.float32, device=device)

    def bound(norm: Tensor, update: Update) -> Bounded:
        squares = layer_squares(update.diff)
        if isinstance(rule, Clip):
            diff = scaled(update.diff, rule.factors(squares))  # line 2
            return Bounded(diff, update.num_examples, l2_bound=rule.bound)
        norms = torch.stack(list(squares.values())).sum(dim=0).sqrt()
        diff = scaled(update.diff, dict.fromkeys(squares, shortened(norms, norm)))
        votes = (norms <= norm).to(torch.float32) - 0.5
        return Bounded(diff, update.num_examples, l2_bound=float(norm), votes=votes)

    def release(norm: Tensor, aggregate: Aggregate, noise: Noise) -> tuple[Released, Tensor]:
        if not math.isfinite(aggregate.l2_sensitivity):
            raise PrivacyError(
                "client_dp: aggregator must state a finite sensitivity; got an infinite one. Use "
                "public_mean."
            )
        stream = noise.stream(noise.round_num)
        std = multiplier * float(norm) * aggregate.l2_sensitivity
        released = Released(with_noise(aggregate.diff, std, stream), aggregate.share)  # line 3
        if not isinstance(rule, Quantile) or aggregate.votes is None:
            return released, norm
        draw = torch.randn((), generator=stream, device=norm.device)
        expected = torch.tensor(aggregate.expected, device=norm.device)
        return released, followed(rule, norm, aggregate.votes + rule.count_noise * draw, expected)

    return Mechanism(
        name=f"client_dp(z={noise_multiplier:g}, {rule.name})",
        unit="client",
        relation="zero-out",
        noise_by="the server, once a round",
        protects_from="anyone who sees the models; the server is trusted",
        statement=(
            f"Clients: updates clipped by {rule.name}, noise multiplier {noise_multiplier:g}, "
            f"added by a trusted server; epsilon at delta {delta:g}."
        ),
        init=init,
        bound=bound,
        release=release,
        spend=lambda norm, exposure: (
            entry_of(exposure, 1.0 if moving else float(norm), noise_multiplier, details),
        ),
        account=lambda: LedgerAccount(delta, READER.release),
        objection=lambda scenario: objection("client_dp", scenario),
        norm=lambda norm: rule.bound if isinstance(rule, Clip) else float(norm),
        missing_counts_as_zero=True,
        canaries="clients",
    )


def with_noise(tree: Tree, std: float, stream: Generator) -> Tree:
    """A tree with independent Gaussian noise on every number of it."""
    return {
        name: tensor
        + std * torch.randn(tensor.shape, generator=stream, device=tensor.device).to(tensor.dtype)
        for name, tensor in tree.items()
    }


def refuse_integers(who: str, like: Tree) -> None:
    """Refuse an update with a tensor that can be neither clipped nor noised.

    Raises:
        PrivacyError: a tensor is not of floating point numbers.
    """
    for name, tensor in like.items():
        if not tensor.is_floating_point():
            raise PrivacyError(
                f"{who}: {name} must be floating point to be sent under privacy; got "
                f"{str(tensor.dtype).removeprefix('torch.')}. Keep it out of the update."
            )


def entry_of(
    exposure: Exposure, sensitivity: float, noise_multiplier: float, details: Mapping[str, Any]
) -> Entry:
    """A round's one release by the server. sensitivity: to one update replaced by zeros."""
    kind = exposure.scenario.selection.sampling.kind
    moved = 2 if kind == "fixed" else 1  # one update replaced by another one
    sampler = sampler_of(exposure)
    return Entry(
        round=exposure.round_num,
        unit="client",
        relation="replace" if kind == "fixed" else "zero_out",
        mechanism="gaussian",
        sampler=sampler,
        sensitivity=moved * sensitivity,
        noise_std=sensitivity * noise_multiplier,
        noise_multiplier=noise_multiplier / moved,
        clients=tuple(exposure.cohort) if kind == "cyclic" else (),
        details=details,
    )


def sampler_of(exposure: Exposure) -> dict[str, Any]:
    """A selection's sampling as the ledger has it."""
    scenario = exposure.scenario
    sampling, chance = scenario.selection.sampling, scenario.cohort / scenario.population
    sampler: dict[str, Any] = {"kind": sampling.kind}
    if sampling.kind == "fixed":
        sampler |= {"population": scenario.population, "cohort": scenario.cohort}
    if sampling.kind == "poisson":
        sampler["sampling_prob"] = chance
        if sampling.most is not None:
            sampler |= {"population": scenario.population, "most": sampling.most}
    if sampling.kind == "grouped":
        groups = sampling.groups or 1
        turn = (exposure.round_num - 1) % groups
        sampler |= {"sampling_prob": groups * chance, "groups": groups, "group": turn}
    return sampler


def objection(who: str, scenario: Scenario) -> str | None:
    """Why a scenario's clients cannot be protected by this server, or None."""
    leak = validate.public(who, scenario, whole_clients=True)
    if leak is not None:
        return leak
    if not scenario.aggregator.public:
        return (
            f"{who}: aggregator must divide by public constants; got {scenario.aggregator.name}, "
            "whose sensitivity depends on who takes part. Use public_mean."
        )
    if scenario.selection.sampling.kind not in KINDS:
        return (
            f"{who}: selection must be {' or '.join(KINDS)}; got {scenario.selection.name}. "
            "Use poisson."
        )
    return None


# --- how the ledger's entries are read ------------------------------------------------------------


def _release(entry: Entry) -> Release:
    sampler, kind, z = entry.sampler, entry.sampler["kind"], multiplier_of(entry)
    if "most" in sampler:
        return TruncatedGaussian(
            sampling_prob=float(sampler["sampling_prob"]),
            noise_multiplier=z,
            population=int(sampler["population"]),
            cap=int(sampler["most"]),
        )
    if kind in ("poisson", "grouped"):
        return SampledGaussian(sampling_prob=float(sampler["sampling_prob"]), noise_multiplier=z)
    if kind == "fixed":
        return FixedSizeGaussian(
            population=int(sampler["population"]),
            cohort=int(sampler["cohort"]),
            noise_multiplier=2 * z,  # there it is over the clip norm
        )
    return PlainGaussian(mu=1 / z) if kind == "cyclic" else no_guarantee(entry)


def _moved(entry: Entry) -> int:
    """The sensitivity over the clip norm: as in `entry_of`."""
    return 2 if entry.relation == "replace" else 1


def _audit(entry: Entry) -> AuditModel:
    clip_norm = entry.sensitivity / _moved(entry)
    noise = entry.details.get("update_noise", entry.noise_std / clip_norm)
    return AuditModel(noise=float(noise), cohorts_follow_sampler=True, **asked_by(entry.sampler))


def asked_by(sampler: Mapping[str, Any]) -> dict[str, Any]:
    """What an adversary knows of who is asked: fields of an audit model, from a sampler."""
    if sampler["kind"] == "cyclic":
        return {"asked_is_public": True}
    if sampler["kind"] == "fixed":
        return {"sampling_prob": sampler["cohort"] / sampler["population"]}
    return {
        "sampling_prob": float(sampler.get("sampling_prob", 1.0)),
        "groups": int(sampler.get("groups", 1)),
    }


READER = EntryReader(
    wrote=written_by("client", "gaussian"),
    release=_release,
    audit=_audit,
    uncharged=lambda entry, name: uncharged(
        entry.details, entry.noise_multiplier * _moved(entry), name
    ),
)
