"""Local privacy: every client noises its own update, and trusts no one else.

Paper     Duchi, Jordan, Wainwright (2013), "Local privacy and statistical minimax rates",
          arXiv:1302.3203, for the setting; the Gaussian mechanism for the noise
Unit      a client's update, whatever its data are
Relation  replace: any update for any other
Noise     each client, once a round
Protects  from everyone but the client itself, the server included
Notation  C clip norm, z noise multiplier

Client k, in every round that it takes part in:

    1  u_k = everything that it sends, clipped to C over all tensors together
    2  it sends u_k + N(0, z^2 C^2)

Deviations  the noise is added where updates arrive, in the simulated server's process; nothing that
    is simulated looks at them before. Sampling gives no amplification: the server sees who sends.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedsim.core.ledger import Entry
from fedsim.core.scenario import Exposure, Mechanism
from fedsim.core.trees import Tree
from fedsim.core.updates import Bounded, Update
from privacy import validate
from privacy.accounting.ledger_account import LedgerAccount
from privacy.accounting.releases import PlainGaussian, multiplier_of
from privacy.mechanisms.client_dp import refuse_integers
from privacy.mechanisms.clipping import Clip, flat, layer_squares, scaled
from privacy.mechanisms.entry_reader import AuditModel, EntryReader, written_by
from privacy.mechanisms.example_level import drawn, release


def local_dp(
    *, noise_multiplier: float, clip: Clip | float = 1.0, delta: float = 1e-5
) -> Mechanism[tuple[()]]:
    """Each client's clipped update with noise of its own (lines 1 and 2).

    Args:
        noise_multiplier: z, the noise's standard deviation over the clip norm.
        clip: a clipping rule, or the C of flat clipping.
        delta: at which epsilon is given.

    Unit: a client's update. Relation: replace. Sensitivity: 2 C. Noise by: the client.
    Protects from: everyone, the server included.

    Raises:
        PrivacyError: a number is out of its range. (Before a run:) clients are chosen by what their
            data say.

    Guarantees:
        Every update is noised by itself, before it meets any other.
        It goes with every aggregator: what is combined is private already.
    """
    validate.noise("local_dp", noise_multiplier, zero_allowed=False)
    validate.delta("local_dp", delta)
    rule = flat(clip) if isinstance(clip, int | float) else clip

    def init(like: Tree) -> tuple[()]:
        refuse_integers("local_dp", like)
        return ()

    def bound(state: tuple[()], update: Update) -> Bounded:
        diff = scaled(update.diff, rule.factors(layer_squares(update.diff)))  # line 1
        noise = drawn(_keys(update), diff)
        std = noise_multiplier * rule.bound
        sent = {name: tensor + std * noise[name] for name, tensor in diff.items()}  # line 2
        return Bounded(sent, update.num_examples, l2_bound=math.inf)

    def spend(state: tuple[()], exposure: Exposure) -> tuple[Entry, ...]:
        senders = [c for c, n in zip(exposure.cohort, exposure.counts, strict=True) if n]
        if not senders:
            return ()
        entry = Entry(
            round=exposure.round_num,
            unit="client",
            relation="replace",
            mechanism="local",
            sampler={"kind": exposure.scenario.selection.sampling.kind},
            sensitivity=2 * rule.bound,
            noise_std=noise_multiplier * rule.bound,
            noise_multiplier=noise_multiplier / 2,
            clients=tuple(senders),
        )
        return (entry,)

    return Mechanism(
        name=f"local_dp(z={noise_multiplier:g}, {rule.name})",
        unit="client",
        relation="replace",
        noise_by="each client, once a round",
        protects_from="everyone but the client itself",
        statement=(
            f"Clients, locally: updates clipped by {rule.name}, noise multiplier "
            f"{noise_multiplier:g}, added by each client; epsilon at delta {delta:g}."
        ),
        init=init,
        bound=bound,
        release=release,
        spend=spend,
        account=lambda: LedgerAccount(delta, READER.release),
        objection=lambda scenario: validate.public("local_dp", scenario, whole_clients=True),
        norm=lambda state: rule.bound,
        missing_counts_as_zero=True,
        canaries="clients",
        releases_each_update=True,
    )


def _keys(update: Update) -> Tensor:
    if update.keys is None:
        raise ValueError("local_dp: updates must come with keys for their noise; got none.")
    return torch.as_tensor(update.keys)


READER = EntryReader(
    wrote=written_by("client", "local"),
    release=lambda entry: PlainGaussian(mu=1 / multiplier_of(entry)),
    audit=lambda entry: AuditModel(
        noise=entry.noise_std / (entry.sensitivity / 2), each_update=True, asked_is_public=True
    ),
)
