"""The server's half of a round: bound, combine, release, step. Knows nothing of Flower."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from fedsim import trees
from fedsim.rng import Purpose, numpy_stream, torch_stream
from fedsim.types import Scenario, Update


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is asked of a cohort. accepted: client -> the last round whose reply was accepted."""

    round_num: int
    broadcast: Any
    clients: list[int]
    accepted: Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class Replies:
    """Some clients' answers, as they come in. failures: client -> why there is nothing to use.

    update rows, losses and clients are in the same order; clients without examples are `empty`.
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

    server: Any
    accepted: list[int]
    empty: list[int]
    rejected: dict[int, str]
    train_loss: float | None
    bytes_down: int
    bytes_up: int


def plan_round(
    scenario: Scenario, server: Any, round_num: int, accepted: Mapping[int, int], seed: int
) -> Work:
    """Choose the cohort and what to send it."""
    stream = numpy_stream(seed, Purpose.COHORT, round_num)
    chosen = scenario.selection.choose(scenario.population, scenario.cohort, round_num, stream)
    return Work(
        round_num=round_num,
        broadcast=scenario.strategy.broadcast(server, round_num),
        clients=list(chosen),
        accepted=accepted,
    )


def finish_round(
    scenario: Scenario, server: Any, work: Work, portions: Iterable[Replies], seed: int
) -> Outcome:
    """Fold replies into the aggregate as they come, release it, and step the server.

    A reply that is not finite is left out before it touches any server state, and named. When no
    reply is left, the server stays as it is and the round still counts.
    """
    params = scenario.strategy.params(server)
    total = scenario.aggregator.init(params)
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
    aggregate = scenario.aggregator.finish(total)
    if aggregate is not None:
        device = next(iter(params.values())).device.type
        noise = torch_stream(seed, Purpose.NOISE, work.round_num, device=device)
        server = scenario.strategy.update(server, scenario.mechanism.release(aggregate, noise))
    return Outcome(
        server=server,
        accepted=accepted,
        empty=sorted(empty),
        rejected=dict(sorted(rejected.items())),
        train_loss=loss_sum / weight_sum if weight_sum else None,
        bytes_down=len(work.clients) * trees.num_bytes(work.broadcast),
        bytes_up=bytes_up,
    )


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
