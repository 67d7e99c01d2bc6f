"""One round, as the papers have it: choose, broadcast, train, bound, add, release, update.

Everything here is a function of what it is given. The loop calls three of them a round:

    work = plan_round(...)        # choose the cohort, and what to broadcast to it
    replies = train(...)          # the cohort's local work; attackers replace theirs
    outcome = finish_round(...)   # bound, add, finish, release, update

Canaries, profiles and records of a run watch from outside (`fedsim.canaries.observe`, `runs.loop`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from fedsim.core import trees
from fedsim.core.ledger import Entry
from fedsim.core.rng import Purpose, client_keys, numpy_stream, torch_stream
from fedsim.core.sampling import Draw, Everyone
from fedsim.core.scenario import Exposure, Mechanism
from fedsim.core.trees import Tree
from fedsim.core.updates import Aggregate, Noise, Update, screen, zero_non_finite
from fedsim.server.setup import PreparedRun
from fedsim.server.transport import Exchange, Replies, Work, gather
from fedsim.world.attacks import forge_updates

_SCALAR = 4  # bytes


class ServerState(NamedTuple):
    """What the server keeps from round to round: three states of trees and tensors."""

    strategy: Any
    selection: Any
    mechanism: Any = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a round did.

    rejected: client -> reason. train_loss: the mean over examples; None where it is not reported.
    """

    state: ServerState
    accepted: list[int]
    empty: list[int]
    rejected: dict[int, str]
    train_loss: float | None
    bytes_down: int
    bytes_up: int


def begin(prepared: PreparedRun) -> ServerState:
    """The server's state before round 1."""
    scenario = prepared.scenario
    return ServerState(
        strategy=scenario.strategy.init(prepared.initial_params),
        selection=scenario.selection.init(scenario.population),
        mechanism=scenario.mechanism.init(prepared.diff_template),
    )


# --- choose and broadcast ------------------------------------------------------------------------


def plan_round(
    prepared: PreparedRun,
    state: ServerState,
    round_num: int,
    accepted: Mapping[int, int],
    exchange: Exchange,
) -> Work:
    """Choose the cohort and what to broadcast to it.

    Where the selection wants losses, all clients are asked for them first.

    Raises:
        ValueError: the selection chose a client twice.
    """
    scenario, traffic = prepared.scenario, [0, 0]

    def scores() -> Tensor:
        params = scenario.strategy.params(state.strategy)
        traffic[0] += scenario.population * trees.num_bytes(params)
        traffic[1] += scenario.population * _SCALAR
        return survey_losses(scenario.population, round_num, params, exchange)

    draw = Draw(
        population=scenario.population,
        cohort=scenario.cohort,
        rounds=scenario.rounds,
        round_num=round_num,
        stream=numpy_stream(prepared.settings.seed, Purpose.COHORT, round_num),
        scores=scores,
    )
    cohort, selection = scenario.selection.choose(state.selection, draw)
    if len(set(cohort)) < len(cohort):
        raise ValueError(f"{scenario.selection.name}: a cohort has each client once; got {cohort}.")
    return Work(
        round_num=round_num,
        broadcast=scenario.strategy.broadcast(state.strategy, round_num),
        clients=list(cohort),
        accepted=accepted,
        selection=selection,
        bytes_down=traffic[0],
        bytes_up=traffic[1],
        entries=ledger_entries(prepared, state, round_num, cohort),
    )


def ledger_entries(
    prepared: PreparedRun, state: ServerState, round_num: int, cohort: Sequence[int]
) -> tuple[Entry, ...]:
    """What a round with this cohort adds to the ledger, whatever its clients will reply."""
    exposure = Exposure(
        scenario=prepared.scenario,
        round_num=round_num,
        cohort=list(cohort),
        counts=prepared.trained_on.counts_of(cohort),
        calls=prepared.calls,
    )
    return prepared.scenario.mechanism.spend(state.mechanism, exposure)


def survey_losses(population: int, round_num: int, params: Tree, exchange: Exchange) -> Tensor:
    """A model's mean loss on each client's own examples [population].

    NaN without a reply; infinite where the loss is not finite, as of a model that diverged.
    """
    losses = torch.full((population,), math.nan)
    everyone = list(range(population))
    work = Work(round_num=round_num, broadcast=params, clients=everyone, accepted={}, kind="score")
    for portion in exchange(work):
        losses[portion.clients] = torch.tensor(portion.losses).nan_to_num(math.inf, math.inf)
    return losses


# --- train ---------------------------------------------------------------------------------------


def train(prepared: PreparedRun, work: Work, exchange: Exchange) -> Iterable[Replies]:
    """The cohort's local work: replies in portions, as they come."""
    return forge_replies(prepared, exchange(work))


def forge_replies(prepared: PreparedRun, replies: Iterable[Replies]) -> Iterable[Replies]:
    """The replies, in which attackers send what they agreed on.

    Where an attack forges updates, all replies are gathered first, since attackers see the others':
    memory O(cohort x d).
    """
    attack = prepared.scenario.attack
    if attack is None or attack.forge is None:
        return replies
    whole = gather(replies)
    if whole.update is None:
        return [whole]
    attacking = torch.tensor([client in prepared.attackers for client in whole.clients])
    return [replace(whole, update=forge_updates(attack.forge, whole.update, attacking))]


# --- bound, add, finish, release, update ---------------------------------------------------------


def finish_round(
    prepared: PreparedRun, state: ServerState, work: Work, replies: Iterable[Replies]
) -> Outcome:
    """Fold the replies into an aggregate as they come, release it, and step the server.

    A reply that is not finite is left out before it touches any state, and named; where that would
    tell something about its client it counts as an update of zero. When no reply is left, the
    server stays as it is and the round still counts; so it does when the aggregator refuses what
    is left, and then all replies are rejected, for its reason.
    """
    scenario, seed = prepared.scenario, prepared.settings.seed
    mechanism, aggregator = scenario.mechanism, scenario.aggregator
    tally = Tally(losses=[] if mechanism.losses_are_public else None)
    total = aggregator.init(prepared.diff_template)
    for update in _usable(replies, tally, mechanism, partial(_noise_keys, prepared, work)):
        total = aggregator.add(total, mechanism.bound(state.mechanism, update))
    aggregate = aggregator.finish(total, everyone(prepared))
    if isinstance(aggregate, Aggregate):
        noise = Noise(work.round_num, partial(_noise_stream, seed, prepared.device.type))
        released, kept = mechanism.release(state.mechanism, aggregate, noise)
        server = scenario.strategy.update(state.strategy, released)
        state = ServerState(server, work.selection, kept)
    else:
        state = state._replace(selection=work.selection)
        if aggregate is not None:  # the rule refused: no client's work is in the model
            tally.reject_all(aggregate)
    return Outcome(
        state=state,
        accepted=tally.accepted,
        empty=sorted(tally.empty),
        rejected=dict(sorted(tally.rejected.items())),
        train_loss=tally.mean_loss(),
        bytes_down=work.bytes_down + len(work.clients) * trees.num_bytes(work.broadcast),
        bytes_up=work.bytes_up + tally.bytes_up,
    )


def everyone(prepared: PreparedRun) -> Everyone:
    """What is public of the population a run trains on."""
    scenario = prepared.scenario
    counts = prepared.trained_on.owned.counts()
    return Everyone(counts, scenario.cohort / scenario.population)


@dataclass
class Tally:
    """The book-keeping of one round.

    losses: (mean loss, examples) of each accepted client; None where losses are not reported.
    """

    losses: list[tuple[float, float]] | None
    accepted: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    bytes_up: int = 0

    def count(self, replies: Replies, update: Update, kept: list[int], dropped: list[int]) -> None:
        """Note a portion of replies: the clients kept, with their update, and those dropped."""
        self.rejected |= dict.fromkeys(dropped, "the update is not finite")
        self.accepted += kept
        if self.losses is None:
            return
        rows = dict(zip(replies.clients, replies.losses, strict=True))
        sizes = update.num_examples.tolist()
        self.losses += [(rows[client], size) for client, size in zip(kept, sizes, strict=True)]

    def reject_all(self, reason: str) -> None:
        """Reject every accepted client: no client's work is in the model after all."""
        self.rejected |= dict.fromkeys(self.accepted, reason)
        self.accepted, self.losses = [], None

    def mean_loss(self) -> float | None:
        """The mean over the examples of accepted clients; None without any."""
        loss_sum = weight_sum = 0.0
        for loss, weight in self.losses or ():
            loss_sum += loss * weight
            weight_sum += weight
        return loss_sum / weight_sum if weight_sum else None


def _usable(
    replies: Iterable[Replies], tally: Tally, mechanism: Mechanism[Any], keys_of: Any
) -> Iterator[Update]:
    """The updates that count, portion by portion; the tally notes what became of every reply."""
    for portion in replies:
        tally.empty += portion.empty
        tally.rejected |= portion.failures
        if portion.update is None:
            continue
        tally.bytes_up += trees.num_bytes(portion.update.diff)
        update, kept, dropped = screen(portion.update, portion.clients)
        tally.count(portion, update, kept, dropped)
        if mechanism.missing_counts_as_zero:
            update = zero_non_finite(portion.update) if dropped else update
            yield replace(update, keys=keys_of(portion.clients))
        elif kept:
            yield update


def _noise_keys(prepared: PreparedRun, work: Work, clients: list[int]) -> Tensor:
    """Each client's own randomness of the round, for noise on its own update."""
    seed = prepared.settings.seed
    keys = client_keys(seed, Purpose.NOISE, work.round_num, torch.tensor(clients))
    return keys.to(prepared.device)


def _noise_stream(seed: int, device: str, round_num: int) -> Generator:
    return torch_stream(seed, Purpose.NOISE, round_num, device=device)
