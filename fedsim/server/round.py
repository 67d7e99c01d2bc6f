"""The server's half of a round: bound, combine, release, step. Knows nothing of Flower."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from fedsim.canaries.observe import Lookout
from fedsim.canaries.plan import Sighting
from fedsim.core import trees
from fedsim.core.ledger import Entry
from fedsim.core.rng import Purpose, client_keys, numpy_stream, torch_stream
from fedsim.core.sampling import Draw, Everyone
from fedsim.core.scenario import Exposure
from fedsim.core.trees import Tree
from fedsim.core.updates import Noise
from fedsim.server.setup import PreparedRun
from fedsim.server.transport import Exchange, Replies, Work, gathered, screened, zeroed
from fedsim.world.attacks import forge_updates


class ServerState(NamedTuple):
    """What the server keeps from round to round, all of it trees and tensors.

    server: the strategy's; chooser: the selection's; mechanism: the mechanism's.
    """

    server: Any
    chooser: Any
    mechanism: Any = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a round did. rejected: client -> reason; train_loss: mean over examples, or None.

    sighting: what it showed of canaries, where there are any.
    """

    held: ServerState
    accepted: list[int]
    empty: list[int]
    rejected: dict[int, str]
    train_loss: float | None
    bytes_down: int
    bytes_up: int
    sighting: Sighting | None = None


def begin(prepared: PreparedRun) -> ServerState:
    """What the server holds before round 1."""
    scenario = prepared.scenario
    return ServerState(
        server=scenario.strategy.init(prepared.initial_params),
        chooser=scenario.selection.init(scenario.population),
        mechanism=scenario.mechanism.init(prepared.diff_template),
    )


def plan_round(
    prepared: PreparedRun,
    held: ServerState,
    round_num: int,
    accepted: Mapping[int, int],
    exchange: Exchange,
) -> Work:
    """Choose the cohort and what to send it; asks all clients first where the selection wants."""
    scenario, asked = prepared.scenario, [0, 0]

    def scores() -> Tensor:
        params = scenario.strategy.params(held.server)
        asked[0] += scenario.population * trees.num_bytes(params)
        asked[1] += scenario.population * _SCALAR
        return survey(scenario.population, round_num, params, exchange)

    draw = Draw(
        population=scenario.population,
        cohort=scenario.cohort,
        rounds=scenario.rounds,
        round_num=round_num,
        stream=numpy_stream(prepared.settings.seed, Purpose.COHORT, round_num),
        scores=scores,
    )
    chosen, chooser = scenario.selection.choose(held.chooser, draw)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{scenario.selection.name}: a cohort has each client once; got {chosen}.")
    return Work(
        round_num=round_num,
        broadcast=scenario.strategy.broadcast(held.server, round_num),
        clients=list(chosen),
        accepted=accepted,
        chooser=chooser,
        bytes_down=asked[0],
        bytes_up=asked[1],
        entries=charges(prepared, held, round_num, chosen),
    )


def charges(
    prepared: PreparedRun, held: ServerState, round_num: int, cohort: Sequence[int]
) -> tuple[Entry, ...]:
    """What a round with this cohort adds to the ledger, whatever its clients will answer."""
    exposure = Exposure(
        scenario=prepared.scenario,
        round_num=round_num,
        cohort=list(cohort),
        counts=prepared.trained_on.counts_of(cohort),
        calls=prepared.calls,
    )
    return prepared.scenario.mechanism.spend(held.mechanism, exposure)


def survey(population: int, round_num: int, params: Tree, exchange: Exchange) -> Tensor:
    """A model's mean loss on each client's own examples [population].

    NaN without an answer; infinite where the loss is not finite, as of a model that diverged.
    """
    found = torch.full((population,), math.nan)
    everyone = list(range(population))
    work = Work(round_num=round_num, broadcast=params, clients=everyone, accepted={}, kind="score")
    for portion in exchange(work):
        found[portion.clients] = torch.tensor(portion.losses).nan_to_num(math.inf, math.inf)
    return found


def finish_round(
    prepared: PreparedRun, held: ServerState, work: Work, portions: Iterable[Replies]
) -> Outcome:
    """Fold replies into the aggregate as they come, release it, and step the server.

    A reply that is not finite is left out before it touches any server state, and named. When no
    reply is left, the server stays as it is and the round still counts; so it does when the
    aggregator refuses what is left, and then all are rejected, for its reason. Where clients are
    protected it counts as an update of zero instead: that it is missing would be seen.

    Where there is an attack on updates, all are gathered first: memory O(cohort x d).

    Under privacy there is no train_loss: nobody has paid for it.
    """
    scenario, like = prepared.scenario, prepared.diff_template
    mechanism, seed = scenario.mechanism, prepared.settings.seed
    total = scenario.aggregator.init(like)
    accepted: list[int] = []
    empty: list[int] = []
    rejected: dict[int, str] = {}
    loss_sum = weight_sum = 0.0
    bytes_up = 0
    look = Lookout(prepared, held.server, held.mechanism, work.round_num)
    for portion in _attacked(prepared, portions):
        empty += portion.empty
        rejected |= portion.failures
        if portion.update is None:
            continue
        bytes_up += trees.num_bytes(portion.update.diff)
        update, kept, dropped = screened(portion.update, portion.clients)
        rejected |= dict.fromkeys(dropped, "the update is not finite")
        accepted += kept
        if mechanism.unit == "client":  # a missing update would say something of its client
            update = zeroed(portion.update) if dropped else update
            clients = torch.tensor(portion.clients)
            keys = client_keys(seed, Purpose.NOISE, work.round_num, clients)
            update = replace(update, keys=keys.to(prepared.device))
        elif not kept:
            continue
        look.at_updates(kept, update)
        total = scenario.aggregator.add(total, mechanism.bound(held.mechanism, update))
        if mechanism.unit == "none":
            place = {client: row for row, client in enumerate(portion.clients)}
            for client, weight in zip(kept, update.num_examples.tolist(), strict=True):
                loss_sum += portion.losses[place[client]] * weight
                weight_sum += weight
    server, kept_back = held.server, held.mechanism
    counts = prepared.trained_on.owned.counts()
    everyone = Everyone(counts, scenario.cohort / scenario.population)
    total = look.joined(total, everyone)
    aggregate = scenario.aggregator.finish(total, everyone)
    if isinstance(aggregate, str):  # nobody's work is in the model, so no state is committed
        rejected |= dict.fromkeys(accepted, aggregate)
        accepted, weight_sum = [], 0.0
    elif aggregate is not None:
        noise = Noise(work.round_num, partial(_noise, seed, prepared.device.type))
        released, kept_back = mechanism.release(held.mechanism, aggregate, noise)
        server = scenario.strategy.update(server, released)
        look.at_release(aggregate, released)
    return Outcome(
        held=ServerState(server, work.chooser, kept_back),
        accepted=accepted,
        empty=sorted(empty),
        rejected=dict(sorted(rejected.items())),
        train_loss=loss_sum / weight_sum if weight_sum else None,
        bytes_down=work.bytes_down + len(work.clients) * trees.num_bytes(work.broadcast),
        bytes_up=work.bytes_up + bytes_up,
        sighting=look.sighting(),
    )


_SCALAR = 4  # bytes


def _noise(seed: int, device: str, round_num: int) -> Generator:
    return torch_stream(seed, Purpose.NOISE, round_num, device=device)


def _attacked(prepared: PreparedRun, portions: Iterable[Replies]) -> Iterable[Replies]:
    """The replies as they come, or all at once where attackers have seen the others'."""
    attack = prepared.scenario.attack
    if attack is None or attack.forge is None:
        return portions
    whole = gathered(portions)
    if whole.update is None:
        return [whole]
    attacking = torch.tensor([client in prepared.attackers for client in whole.clients])
    return [replace(whole, update=forge_updates(attack.forge, whole.update, attacking))]
