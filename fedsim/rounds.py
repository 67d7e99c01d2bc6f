"""The server's half of a round: bound, combine, release, step. Knows nothing of Flower."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from fedsim import trees
from fedsim.experiment import Experiment
from fedsim.rng import Purpose, numpy_stream, torch_stream
from fedsim.types import Draw, Tree, Update


class Held(NamedTuple):
    """What the server keeps from round to round. server: the strategy's; chooser: the selection's.

    Both are trees and tensors.
    """

    server: Any
    chooser: Any


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is asked of a cohort.

    kind: local work, or only the loss of the model in `broadcast` on each client's own examples.
    accepted: client -> the last round whose reply was accepted.
    chooser: the selection's state after it chose.
    bytes_down, bytes_up: what choosing cost.
    """

    round_num: int
    broadcast: Any
    clients: list[int]
    accepted: Mapping[int, int]
    kind: Literal["train", "score"] = "train"
    chooser: Any = ()
    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(frozen=True, kw_only=True)
class Replies:
    """Some clients' answers, as they come in. failures: client -> why there is nothing to use.

    update rows, losses and clients are in the same order; clients without examples are `empty`.
    There is no update where only the loss was asked for.
    """

    clients: list[int] = field(default_factory=list)
    update: Update | None = None
    losses: list[float] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)


class Exchange(Protocol):
    """How work reaches clients and replies come back, whatever lies between."""

    def __call__(self, work: Work) -> Iterator[Replies]:
        """Yield the cohort's replies, in any order and any portions."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a round did. rejected: client -> reason; train_loss: mean over examples, or None."""

    held: Held
    accepted: list[int]
    empty: list[int]
    rejected: dict[int, str]
    train_loss: float | None
    bytes_down: int
    bytes_up: int


def begin(experiment: Experiment) -> Held:
    """What the server holds before round 1."""
    scenario = experiment.scenario
    return Held(
        server=scenario.strategy.init(experiment.initial_params),
        chooser=scenario.selection.init(scenario.population),
    )


def plan_round(
    experiment: Experiment,
    held: Held,
    round_num: int,
    accepted: Mapping[int, int],
    exchange: Exchange,
) -> Work:
    """Choose the cohort and what to send it; asks all clients first where the selection wants."""
    scenario, asked = experiment.scenario, [0, 0]

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
        stream=numpy_stream(experiment.settings.seed, Purpose.COHORT, round_num),
        scores=scores,
    )
    chosen, chooser = scenario.selection.choose(held.chooser, draw)
    return Work(
        round_num=round_num,
        broadcast=scenario.strategy.broadcast(held.server, round_num),
        clients=list(chosen),
        accepted=accepted,
        chooser=chooser,
        bytes_down=asked[0],
        bytes_up=asked[1],
    )


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
    experiment: Experiment, held: Held, work: Work, portions: Iterable[Replies]
) -> Outcome:
    """Fold replies into the aggregate as they come, release it, and step the server.

    A reply that is not finite is left out before it touches any server state, and named. When no
    reply is left, the server stays as it is and the round still counts.
    """
    scenario, like = experiment.scenario, experiment.diff_template
    total = scenario.aggregator.init(like)
    accepted: list[int] = []
    empty: list[int] = []
    rejected: dict[int, str] = {}
    loss_sum = weight_sum = 0.0
    bytes_up = 0
    for portion in portions:
        empty += portion.empty
        rejected |= portion.failures
        if portion.update is None:
            continue
        bytes_up += trees.num_bytes(portion.update.diff)
        update, kept, dropped = _screen(portion.update, portion.clients)
        rejected |= dict.fromkeys(dropped, "the update is not finite")
        if not kept:
            continue
        total = scenario.aggregator.add(total, scenario.mechanism.bound(update))
        place = {client: row for row, client in enumerate(portion.clients)}
        for client, weight in zip(kept, update.num_examples.tolist(), strict=True):
            loss_sum += portion.losses[place[client]] * weight
            weight_sum += weight
        accepted += kept
    server = held.server
    aggregate = scenario.aggregator.finish(total, experiment.population.owned.counts())
    if aggregate is not None:
        noise = torch_stream(
            experiment.settings.seed, Purpose.NOISE, work.round_num, device=experiment.device.type
        )
        server = scenario.strategy.update(server, scenario.mechanism.release(aggregate, noise))
    return Outcome(
        held=Held(server, work.chooser),
        accepted=accepted,
        empty=sorted(empty),
        rejected=dict(sorted(rejected.items())),
        train_loss=loss_sum / weight_sum if weight_sum else None,
        bytes_down=work.bytes_down + len(work.clients) * trees.num_bytes(work.broadcast),
        bytes_up=work.bytes_up + bytes_up,
    )


_SCALAR = 4  # bytes


def _screen(update: Update, clients: list[int]) -> tuple[Update, list[int], list[int]]:
    """The finite rows of an update, whose they are, and whose the others were."""
    finite = trees.finite_rows(update.diff)
    if bool(finite.all()):
        return update, clients, []
    rows = torch.nonzero(finite).flatten()
    flags = finite.tolist()
    kept = [client for client, good in zip(clients, flags, strict=True) if good]
    dropped = [client for client, good in zip(clients, flags, strict=True) if not good]
    return Update(trees.rows(update.diff, rows), update.num_examples[rows]), kept, dropped
