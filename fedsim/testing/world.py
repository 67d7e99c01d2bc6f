"""The battery's world, and the ways to reach its clients: directly, by grid, by wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.scenario import AnyStrategy, Mechanism, Scenario
from fedsim.core.settings import Settings
from fedsim.core.trees import Tree
from fedsim.core.updates import Bounded, Released, Update
from fedsim.flower.client import client_app
from fedsim.flower.cohort import cohort_answer
from fedsim.flower.exchange import grid_exchange
from fedsim.flower.grid import CohortGrid
from fedsim.flower.wire import over_the_wire
from fedsim.models.lora import adapt
from fedsim.models.tasks import classification
from fedsim.models.vision import mlp
from fedsim.server.round import Outcome, ServerState, begin, finish_round, plan_round, train
from fedsim.server.setup import PreparedRun, prepare
from fedsim.server.transport import Exchange, Replies, Work
from fedsim.training.client_state import ClientStates
from fedsim.training.evaluation import mean_losses
from fedsim.world import partition
from strategies import batch_plans, client_selection
from strategies.aggregators import mean

SIZES = (1, 5, 0, 8, 12, 20, 3)
LARGEST = 5  # the client with most examples
EMPTY = 2
ROUNDS = 3
PLAN = batch_plans.shuffled_epochs(epochs=2, batch_size=4)


def world(
    strategy: AnyStrategy,
    *,
    seed: int = 1,
    width: int = 3,
    poison: int | None = None,
    **parts: Any,
) -> PreparedRun:
    """The battery's experiment; `poison` makes that client's inputs NaN."""
    scenario = Scenario(
        data=_blobs(poison),
        split=partition.given(np.repeat(np.arange(len(SIZES)), SIZES)),
        task=classification("mlp", lambda: mlp(5, 8, 3)),
        strategy=strategy,
        plan=PLAN,
        selection=client_selection.uniform(),
        aggregator=mean(),
        mechanism=_plain(),
        population=len(SIZES),
        cohort=5,
        rounds=ROUNDS,
    )
    if strategy.objection(scenario) is not None:  # one that asks for adapters gets them
        adapted = classification("mlp", lambda: adapt(mlp(5, 8, 3), "1|3", rank=2, alpha=2.0))
        scenario = replace(scenario, task=adapted)
    settings = Settings(seed=seed, width=width, device="cpu")
    return prepare(replace(scenario, **parts), settings)


def _blobs(poison: int | None) -> Source:
    """Three Gaussian blobs in five dimensions, dealt to clients of the battery's sizes."""

    def load(data_dir: Path | None) -> Dataset:
        draw = np.random.default_rng(0)
        y = draw.integers(3, size=sum(SIZES))
        x = draw.normal(size=(3, 5))[y] * 2 + draw.normal(size=(len(y), 5))
        if poison is not None:
            x[np.repeat(np.arange(len(SIZES)), SIZES) == poison] = np.nan
        examples = Examples(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y))
        return Dataset(name="battery", train=examples, test=examples, num_classes=3)

    return Source(name="battery", load=load)


def _plain() -> Mechanism[Any]:
    """No privacy, said here because the core does not import the catalogue of mechanisms."""

    def bound(state: Any, update: Update) -> Bounded:
        return Bounded(update.diff, update.num_examples, float("inf"))

    return Mechanism(
        name="none",
        unit="none",
        statement="none",
        bound=bound,
        release=lambda state, aggregate, noise: (
            Released(aggregate.diff, aggregate.share),
            state,
        ),
        losses_are_public=True,
    )


# --- ways to reach the clients -------------------------------------------------------------------


def direct(prepared: PreparedRun, states: ClientStates | None = None) -> Exchange:
    """Chunks straight from the trainer, without Flower."""
    held = ClientStates(prepared.client_template) if states is None else states

    def exchange(work: Work) -> Iterator[Replies]:
        counts = prepared.dealt.counts_of(work.clients)
        yield Replies(empty=[c for c, n in zip(work.clients, counts, strict=True) if not n])
        if work.kind == "score":
            clients = [c for c, n in zip(work.clients, counts, strict=True) if n]
            losses = mean_losses(prepared.scenario.task, work.broadcast, prepared.dealt, clients)
            yield Replies(clients=clients, losses=losses.tolist())
            return
        for chunk in prepared.trainer.chunks(work.clients):
            state = held.fetch(chunk, work.accepted)
            trained = prepared.trainer.train(work.round_num, work.broadcast, chunk, state)
            held.hold(chunk, work.round_num, trained.states)
            yield Replies(
                clients=chunk,
                update=Update(trained.diff, trained.num_examples),
                losses=trained.losses.tolist(),
            )

    return exchange


def in_reverse(prepared: PreparedRun) -> Exchange:
    """As `direct`, the last reply first."""
    forth = direct(prepared)
    return lambda work: iter(list(forth(work))[::-1])


def over_grid(prepared: PreparedRun) -> Exchange:
    """Flower messages over the grid that answers a cohort at once."""
    states = ClientStates(prepared.client_template)
    app = client_app(lambda context: prepared)
    answer = cohort_answer(prepared, states)
    return grid_exchange(CohortGrid(app, num_nodes=len(SIZES), cohort=answer), prepared)


def over_wire(prepared: PreparedRun) -> Exchange:
    """Flower messages to two nodes that host everyone, through Flower's own serialisation."""
    app = over_the_wire(client_app(lambda context: prepared))
    return grid_exchange(CohortGrid(app, num_nodes=2), prepared)


# --- rounds without a run folder ---


def work_for(
    prepared: PreparedRun, held: ServerState, clients: list[int], round_num: int = 1
) -> Work:
    """The work of one round for these clients, none of whose replies was accepted before."""
    broadcast = prepared.scenario.strategy.broadcast(held.strategy, round_num)
    return Work(round_num=round_num, broadcast=broadcast, clients=clients, accepted={})


class Progress(NamedTuple):
    """A run after some rounds: the server's state, accepted replies, models in order, outcomes."""

    held: ServerState
    accepted: dict[int, int]
    models: list[Tree]
    outcomes: list[Outcome]


def run_rounds(
    prepared: PreparedRun,
    exchange: Exchange,
    rounds: range,
    held: ServerState | None = None,
    accepted: Mapping[int, int] | None = None,
) -> Progress:
    """Run some rounds without a run folder.

    Args:
        prepared: what is run.
        exchange: how clients are reached.
        rounds: numbers of the rounds, from 1.
        held: the server's state before them; that of a new run if left out.
        accepted: client -> the last round whose reply was accepted.
    """
    held = begin(prepared) if held is None else held
    progress = Progress(held, dict(accepted or {}), [], [])
    for round_num in rounds:
        work = plan_round(prepared, progress.held, round_num, progress.accepted, exchange)
        outcome = finish_round(prepared, progress.held, work, train(prepared, work, exchange))
        progress = Progress(
            held=outcome.state,
            accepted=progress.accepted | dict.fromkeys(outcome.accepted, round_num),
            models=[*progress.models, prepared.scenario.strategy.params(outcome.state.strategy)],
            outcomes=[*progress.outcomes, outcome],
        )
    return progress


def model_after(prepared: PreparedRun, reach: Callable[[PreparedRun], Exchange]) -> Tree:
    """The model after all rounds, with the clients reached in this way."""
    return run_rounds(prepared, reach(prepared), range(1, ROUNDS + 1)).models[-1]
