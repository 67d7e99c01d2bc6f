"""The contract battery that every strategy goes through; open to other people's strategies.

    from fedsim.check import check_strategy
    check_strategy(my_strategy)

Each check is one function whose docstring is the contract, word for word. It raises
`ContractError` where the contract is broken. The world is small: six clients with 1 to 20
examples and one with none, a linear model with a hidden layer, milliseconds a round.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsim import plans, selection, splits, trees
from fedsim.aggregate import mean
from fedsim.data import Dataset, Examples, Source
from fedsim.experiment import Experiment, Settings, open_experiment
from fedsim.flower.client import client_app, cohort_answer
from fedsim.flower.grid import CohortGrid, in_process
from fedsim.flower.server import grid_exchange
from fedsim.flower.wire import over_the_wire
from fedsim.models import mlp
from fedsim.rounds import Exchange, Replies, Work, finish_round, plan_round
from fedsim.states import ClientStates
from fedsim.tasks import classification
from fedsim.types import AnyStrategy, Bounded, Mechanism, Released, Scenario, Tree, Update

_SIZES = (1, 5, 0, 8, 12, 20, 3)
_LARGEST = 5  # the client with most examples
_EMPTY = 2
_ROUNDS = 3
_CLOSE = 1e-5  # float32 rounding over three rounds of about thirty steps


class ContractError(AssertionError):
    """A strategy breaks its contract."""


def check_strategy(strategy: AnyStrategy) -> None:
    """Put a strategy through the whole battery.

    Raises:
        ContractError: it breaks a contract; the message is the contract.
    """
    for check in STRATEGY_CHECKS:
        check(strategy)


# --- the contracts -------------------------------------------------------------------------------


def keeps_names_shapes_and_types(strategy: AnyStrategy) -> None:
    """The model keeps its names, shapes and types from round to round."""
    experiment = _world(strategy)
    before, after = experiment.initial_params, _model(experiment, direct)
    same = before.keys() == after.keys() and all(
        before[name].shape == after[name].shape and before[name].dtype == after[name].dtype
        for name in before
    )
    _hold(same, keeps_names_shapes_and_types, strategy)


def changes_none_of_its_arguments(strategy: AnyStrategy) -> None:
    """No function changes its arguments."""
    experiment = _world(strategy)
    server = strategy.init(experiment.initial_params)
    copy = [leaf.clone() for leaf in trees.leaves(server)]
    work = plan_round(experiment.scenario, server, 1, {}, seed=1)
    sent = [leaf.clone() for leaf in trees.leaves(work.broadcast)]
    replies = list(direct(experiment)(work))
    finish_round(experiment.scenario, server, work, replies, seed=1)
    untouched = _equal(copy, trees.leaves(server)) and _equal(sent, trees.leaves(work.broadcast))
    _hold(untouched, changes_none_of_its_arguments, strategy)


def same_seed_same_bits(strategy: AnyStrategy) -> None:
    """The same seed gives the same bits; another seed gives another model."""
    first, again = (_model(_world(strategy), direct) for _ in range(2))
    other = _model(_world(strategy, seed=2), direct)
    same = _equal(trees.leaves(first), trees.leaves(again))
    differs = not _equal(trees.leaves(first), trees.leaves(other))
    _hold(same and differs, same_seed_same_bits, strategy)


def learns(strategy: AnyStrategy) -> None:
    """A few rounds move the model, and every number of it stays finite."""
    experiment = _world(strategy)
    model = _model(experiment, direct)
    moved = not _equal(trees.leaves(experiment.initial_params), trees.leaves(model))
    finite = all(bool(torch.isfinite(leaf).all()) for leaf in model.values())
    _hold(moved and finite, learns, strategy)


def every_width_agrees(strategy: AnyStrategy) -> None:
    """Clients trained one by one and as one stack give the same model to float rounding."""
    alone, stacked = (_model(_world(strategy, width=width), direct) for width in (1, 7))
    _hold(_close(alone, stacked), every_width_agrees, strategy)


def order_does_not_matter(strategy: AnyStrategy) -> None:
    """Replies in another order give the same model to float rounding."""
    forth = _model(_world(strategy, width=1), direct)
    back = _model(_world(strategy, width=1), _reversed)
    _hold(_close(forth, back), order_does_not_matter, strategy)


def grid_and_wire_agree(strategy: AnyStrategy) -> None:
    """In this process, over the grid, and serialised on the wire, the model is the same."""
    here = _model(_world(strategy), direct)
    with in_process():
        grid = _model(_world(strategy), _over_grid)
        wire = _model(_world(strategy, width=1), _over_wire)
    _hold(_close(here, grid) and _close(here, wire), grid_and_wire_agree, strategy)


def resumes_bit_for_bit(strategy: AnyStrategy) -> None:
    """Saved after a round and loaded in a new process, the run goes on bit for bit."""
    experiment = _world(strategy)
    through = _model(experiment, direct)
    states = ClientStates(experiment.client_template)
    server, accepted = _rounds(experiment, direct(experiment, states), range(1, 3))
    stream = io.BytesIO()
    saved = {"server": trees.leaves(server), "clients": states.export(), "accepted": accepted}
    torch.save(saved, stream)
    loaded = torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
    fresh = _world(strategy)
    revived = ClientStates(fresh.client_template)
    revived.restore(loaded["clients"])
    server = trees.rebuild(strategy.init(fresh.initial_params), loaded["server"])
    exchange = direct(fresh, revived)
    server, _ = _rounds(fresh, exchange, range(3, _ROUNDS + 1), server, loaded["accepted"])
    same = _equal(trees.leaves(through), trees.leaves(strategy.params(server)))
    _hold(same, resumes_bit_for_bit, strategy)


def a_nan_client_is_left_out(strategy: AnyStrategy) -> None:
    """A client whose update is not finite is left out, named, and hurts nobody else."""
    poisoned, clean = _world(strategy, poison=_LARGEST), _world(strategy)
    server = strategy.init(poisoned.initial_params)
    everyone = list(range(len(_SIZES)))
    outcome = finish_round(
        poisoned.scenario, server, w := _work(poisoned, server, everyone), direct(poisoned)(w), 1
    )
    others = [client for client in everyone if client != _LARGEST]
    expected = finish_round(
        clean.scenario, server, w := _work(clean, server, others), direct(clean)(w), 1
    )
    named = list(outcome.rejected) == [_LARGEST] and _LARGEST not in outcome.accepted
    same = _close(strategy.params(outcome.server), strategy.params(expected.server))
    _hold(named and same, a_nan_client_is_left_out, strategy)


def without_replies_nothing_changes(strategy: AnyStrategy) -> None:
    """When no reply can be used, the server keeps its state bit for bit."""
    experiment = _world(strategy)
    server = strategy.init(experiment.initial_params)
    work = _work(experiment, server, [_EMPTY])
    outcome = finish_round(experiment.scenario, server, work, direct(experiment)(work), 1)
    same = _equal(trees.leaves(server), trees.leaves(outcome.server))
    _hold(same and outcome.empty == [_EMPTY], without_replies_nothing_changes, strategy)


def an_empty_client_changes_nothing(strategy: AnyStrategy) -> None:
    """A cohort with a client that has no examples gives what it gives without that client."""
    experiment = _world(strategy)
    server = strategy.init(experiment.initial_params)
    models = []
    for clients in ([1, 3, _LARGEST], [1, _EMPTY, 3, _LARGEST]):
        work = _work(experiment, server, clients)
        outcome = finish_round(experiment.scenario, server, work, direct(experiment)(work), 1)
        models.append(strategy.params(outcome.server))
    same = _equal(trees.leaves(models[0]), trees.leaves(models[1]))
    _hold(same, an_empty_client_changes_nothing, strategy)


def a_cohort_of_one_works(strategy: AnyStrategy) -> None:
    """A cohort of one client, with one example, gives a finite model."""
    experiment = _world(strategy)
    server = strategy.init(experiment.initial_params)
    work = _work(experiment, server, [0])
    outcome = finish_round(experiment.scenario, server, work, direct(experiment)(work), 1)
    leaves = trees.leaves(strategy.params(outcome.server))
    finite = all(bool(torch.isfinite(leaf).all()) for leaf in leaves)
    _hold(finite and outcome.accepted == [0], a_cohort_of_one_works, strategy)


def a_lost_reply_leaves_no_trace(strategy: AnyStrategy) -> None:
    """A client whose reply was lost goes on from the state it had before."""
    experiment = _world(strategy)
    server = strategy.init(experiment.initial_params)
    models = []
    for rounds_before in ([], [1]):  # never asked, or asked and the reply lost
        states = ClientStates(experiment.client_template)
        exchange = direct(experiment, states)
        for round_num in rounds_before:
            list(exchange(_work(experiment, server, [3, _LARGEST], round_num)))
        work = _work(experiment, server, [3, _LARGEST], 2)
        outcome = finish_round(experiment.scenario, server, work, exchange(work), 1)
        models.append(strategy.params(outcome.server))
    same = _equal(trees.leaves(models[0]), trees.leaves(models[1]))
    _hold(same, a_lost_reply_leaves_no_trace, strategy)


def composes(strategy: AnyStrategy) -> None:
    """Every batch plan, selection and weighting can be combined with it."""
    for plan in (_PLAN, plans.random_batches(steps=3, batch_size=2)):
        for choice in (selection.uniform(), selection.poisson()):
            for combine in (mean("examples"), mean("uniform")):
                parts: dict[str, Any] = {"plan": plan, "selection": choice, "aggregator": combine}
                model = _model(_world(strategy, **parts), direct)
                finite = all(bool(torch.isfinite(leaf).all()) for leaf in model.values())
                _hold(finite, composes, strategy)


STRATEGY_CHECKS: tuple[Callable[[AnyStrategy], None], ...] = (
    keeps_names_shapes_and_types,
    changes_none_of_its_arguments,
    same_seed_same_bits,
    learns,
    every_width_agrees,
    order_does_not_matter,
    grid_and_wire_agree,
    resumes_bit_for_bit,
    a_nan_client_is_left_out,
    without_replies_nothing_changes,
    an_empty_client_changes_nothing,
    a_cohort_of_one_works,
    a_lost_reply_leaves_no_trace,
    composes,
)


# --- the world -----------------------------------------------------------------------------------

_PLAN = plans.shuffled_epochs(epochs=2, batch_size=4)


def _world(
    strategy: AnyStrategy,
    *,
    seed: int = 1,
    width: int = 3,
    poison: int | None = None,
    **parts: Any,
) -> Experiment:
    """The battery's experiment; `poison` makes that client's inputs NaN."""
    scenario = Scenario(
        data=_blobs(poison),
        split=splits.given(np.repeat(np.arange(len(_SIZES)), _SIZES)),
        task=classification("mlp", lambda: mlp(5, 8, 3)),
        strategy=strategy,
        plan=_PLAN,
        selection=selection.uniform(),
        aggregator=mean(),
        mechanism=_plain(),
        population=len(_SIZES),
        cohort=5,
        rounds=_ROUNDS,
    )
    settings = Settings(seed=seed, width=width, device="cpu")
    return open_experiment(replace(scenario, **parts), settings)


def _blobs(poison: int | None) -> Source:
    """Three Gaussian blobs in five dimensions, dealt to clients of the battery's sizes."""

    def load(data_dir: Path | None) -> Dataset:
        draw = np.random.default_rng(0)
        y = draw.integers(3, size=sum(_SIZES))
        x = draw.normal(size=(3, 5))[y] * 2 + draw.normal(size=(len(y), 5))
        if poison is not None:
            x[np.repeat(np.arange(len(_SIZES)), _SIZES) == poison] = np.nan
        examples = Examples(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y))
        return Dataset(name="battery", train=examples, test=examples, num_classes=3)

    return Source(name="battery", load=load)


def _plain() -> Mechanism:
    """No privacy, said here because the core does not import the catalogue of mechanisms."""

    def bound(update: Update) -> Bounded:
        return Bounded(update.diff, update.num_examples, float("inf"))

    return Mechanism(
        name="none",
        unit="none",
        statement="none",
        bound=bound,
        release=lambda aggregate, noise: Released(aggregate.diff),
    )


# --- ways to reach the clients -------------------------------------------------------------------


def direct(experiment: Experiment, states: ClientStates | None = None) -> Exchange:
    """Chunks straight from the trainer, without Flower: the reference."""
    held = states or ClientStates(experiment.client_template)
    counts = experiment.population.owned.counts()

    def exchange(work: Work) -> Iterator[Replies]:
        yield Replies(empty=[client for client in work.clients if counts[client] == 0])
        for chunk in experiment.trainer.chunks(work.clients):
            state = held.fetch(chunk, work.accepted)
            trained = experiment.trainer.train(work.round_num, work.broadcast, chunk, state)
            held.hold(chunk, work.round_num, trained.states)
            yield Replies(
                clients=chunk,
                update=Update(trained.diff, trained.num_examples),
                losses=trained.losses.tolist(),
            )

    return exchange


def _reversed(experiment: Experiment) -> Exchange:
    """As `direct`, the last reply first."""
    forth = direct(experiment)
    return lambda work: iter(list(forth(work))[::-1])


def _over_grid(experiment: Experiment) -> Exchange:
    """Flower messages over the grid that answers a cohort at once."""
    states = ClientStates(experiment.client_template)
    app = client_app(lambda context: experiment)
    answer = cohort_answer(experiment, states)
    return grid_exchange(CohortGrid(app, num_nodes=len(_SIZES), cohort=answer), experiment)


def _over_wire(experiment: Experiment) -> Exchange:
    """Flower messages to two nodes that host everyone, through Flower's own serialisation."""
    app = over_the_wire(client_app(lambda context: experiment))
    return grid_exchange(CohortGrid(app, num_nodes=2), experiment)


# --- small helpers -------------------------------------------------------------------------------


def _work(experiment: Experiment, server: Any, clients: list[int], round_num: int = 1) -> Work:
    broadcast = experiment.scenario.strategy.broadcast(server, round_num)
    return Work(round_num=round_num, broadcast=broadcast, clients=clients, accepted={})


def _rounds(
    experiment: Experiment,
    exchange: Exchange,
    rounds: range,
    server: Any = None,
    accepted: dict[int, int] | None = None,
) -> tuple[Any, dict[int, int]]:
    """The server's state and the accepted replies after some rounds."""
    scenario, seed = experiment.scenario, experiment.settings.seed
    server = scenario.strategy.init(experiment.initial_params) if server is None else server
    accepted = dict(accepted or {})
    for round_num in rounds:
        work = plan_round(scenario, server, round_num, accepted, seed)
        outcome = finish_round(scenario, server, work, exchange(work), seed)
        server = outcome.server
        accepted.update(dict.fromkeys(outcome.accepted, round_num))
    return server, accepted


def _model(experiment: Experiment, reach: Callable[[Experiment], Exchange]) -> Tree:
    """The model after all rounds, with the clients reached in this way."""
    server, _ = _rounds(experiment, reach(experiment), range(1, _ROUNDS + 1))
    return experiment.scenario.strategy.params(server)


def _equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _close(first: Tree, second: Tree) -> bool:
    return all(torch.allclose(first[k], second[k], rtol=_CLOSE, atol=_CLOSE) for k in first)


def _hold(holds: bool, contract: Callable[[AnyStrategy], None], strategy: AnyStrategy) -> None:
    if not holds:
        raise ContractError(f"{strategy.name} breaks its contract: {contract.__doc__}")
