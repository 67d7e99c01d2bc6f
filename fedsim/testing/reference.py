"""A run, slow and plain: the twin with which the fast code is compared.

A `for` over rounds and a `for` over clients, without stacks of clients, vmap, workers or Flower.
Gradients come from torch.autograd on the user's own module, one batch at a time.

Shapes: n examples of a client, s steps, b examples of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from fedsim.core import trees
from fedsim.core.batch import Batch, Penalty
from fedsim.core.machine import use_threads
from fedsim.core.rng import Purpose, bits, client_keys, numpy_stream, torch_stream
from fedsim.core.sampling import Draw, Everyone
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.core.updates import Noise, Update
from fedsim.server.setup import PreparedRun


class State(NamedTuple):
    """What is kept between rounds. clients: client -> its state, of those that have trained."""

    server: Any
    selection: Any
    mechanism: Any
    clients: dict[int, Any]


def run_reference(prepared: PreparedRun, rounds: int) -> list[Tree]:
    """Run some rounds; the model after each.

    Args:
        prepared: what is run, without attacks, canaries and example-level privacy.
        rounds: how many.

    Raises:
        ValueError: the run has one of these, for which there is no twin.
    """
    scenario = prepared.scenario
    if scenario.attack or scenario.canaries or scenario.mechanism.example_rule:
        raise ValueError(
            "run_reference: scenario must have no attack, no canaries and no example-level "
            f"privacy; got {scenario.mechanism.name}. Leave them out."
        )
    state = begin(prepared)
    models = []
    with use_threads(1):  # small operations: more threads would wait for each other
        for round_num in range(1, rounds + 1):
            state = _play_round(prepared, state, round_num)
            models.append(scenario.strategy.params(state.server))
    return models


def begin(prepared: PreparedRun) -> State:
    """The state before round 1."""
    scenario = prepared.scenario
    return State(
        server=scenario.strategy.init(prepared.initial_params),
        selection=scenario.selection.init(scenario.population),
        mechanism=scenario.mechanism.init(prepared.diff_template),
        clients={},
    )


def _play_round(prepared: PreparedRun, state: State, round_num: int) -> State:
    """One round: choose, broadcast, train, bound, add, finish, release, update."""
    scenario, seed = prepared.scenario, prepared.settings.seed
    strategy, mechanism, aggregator = scenario.strategy, scenario.mechanism, scenario.aggregator
    cohort, selection = choose_cohort(prepared, state, round_num)
    broadcast = strategy.broadcast(state.server, round_num)
    total, trained = aggregator.init(prepared.diff_template), dict[int, Any]()
    for client in cohort:
        count = len(prepared.trained_on.owned.of(client))
        if not count:
            continue
        before = state.clients.get(client, strategy.client_init(prepared.initial_params))
        diff, after = _train(prepared, round_num, broadcast, client, before)
        if all(bool(tensor.isfinite().all()) for tensor in diff.values()):
            trained[client] = after
        elif mechanism.missing_counts_as_zero:
            diff = trees.zeros_like(diff)
        else:
            continue
        key = client_keys(seed, Purpose.NOISE, round_num, torch.tensor([client]))
        of_one = {name: tensor.unsqueeze(0) for name, tensor in diff.items()}
        update = Update(of_one, torch.tensor([float(count)]), key)
        bounded = mechanism.bound(state.mechanism, update)
        total = aggregator.add(total, bounded)
    everyone = Everyone(prepared.trained_on.owned.counts(), scenario.cohort / scenario.population)
    aggregate = aggregator.finish(total, everyone)
    if aggregate is None or isinstance(aggregate, str):  # no reply can be used
        return state._replace(selection=selection)
    noise = Noise(round_num, partial(_noise_stream, seed))
    released, private = mechanism.release(state.mechanism, aggregate, noise)
    server = strategy.update(state.server, released)
    return State(server, selection, private, state.clients | trained)


def _train(
    prepared: PreparedRun, round_num: int, broadcast: Any, client: int, state: Any
) -> tuple[Tree, Any]:
    """One client's local work: its diff and its new state."""
    strategy = prepared.scenario.strategy
    local = strategy.local_init(broadcast, state)
    for batch in batches_of(prepared, round_num, broadcast, client, state):
        oracle = AutogradOracle(prepared.scenario.task)
        local = strategy.local_step(local, batch, oracle, broadcast, state)
    return strategy.local_end(local, broadcast, state)


def batches_of(
    prepared: PreparedRun, round_num: int, broadcast: Any, client: int, state: Any
) -> Iterator[Batch]:
    """The batches of one client in the order of its plan."""
    plan, seed = prepared.scenario.plan, prepared.settings.seed
    x, y = _examples(prepared, client)
    number = torch.tensor([client])
    scores = None
    if plan.scores is not None:
        with torch.no_grad():
            scores = plan.scores(prepared.scenario.task, broadcast, state, x, y).unsqueeze(0)
    key = client_keys(seed, Purpose.BATCHES, round_num, number)
    (places,) = plan.schedule(torch.tensor([len(y)]), key, round_num, scores)  # [s, b]
    (step_keys,) = bits(client_keys(seed, Purpose.STEP, round_num, number), len(places))
    for place, step_key in zip(places, step_keys, strict=True):
        mask = (place >= 0).float()
        at = place.clamp(min=0)
        yield Batch(x[at], y[at], mask, step_key)


def choose_cohort(prepared: PreparedRun, state: State, round_num: int) -> tuple[list[int], Any]:
    """The cohort, and the selection's new state."""
    scenario = prepared.scenario
    draw = Draw(
        population=scenario.population,
        cohort=scenario.cohort,
        rounds=scenario.rounds,
        round_num=round_num,
        stream=numpy_stream(prepared.settings.seed, Purpose.COHORT, round_num),
        scores=lambda: _mean_losses(prepared, scenario.strategy.params(state.server)),
    )
    cohort, selection = scenario.selection.choose(state.selection, draw)
    return list(cohort), selection


def _mean_losses(prepared: PreparedRun, params: Tree) -> Tensor:
    """The model's mean loss on each client's examples; NaN where there are none."""
    task, losses = prepared.scenario.task, torch.full((prepared.scenario.population,), math.nan)
    for client in range(len(losses)):
        x, y = _examples(prepared, client)
        if len(y):
            with torch.no_grad():
                losses[client] = task.loss_of(task.predict(params, x), y).mean()
    return losses.nan_to_num(math.nan, math.inf, math.inf)


def _examples(prepared: PreparedRun, client: int) -> tuple[Tensor, Tensor]:
    """One client's examples, x [n, ...] and y [n, ...]."""
    dataset, rows = prepared.trained_on.dataset, prepared.trained_on.owned.of(client)
    return dataset.ready(dataset.train.x[rows]), dataset.train.y[rows]


def _noise_stream(seed: int, round_num: int) -> Generator:
    return torch_stream(seed, Purpose.NOISE, round_num)


@dataclass(frozen=True)
class AutogradOracle:
    """Gradients by torch.autograd of the task's loss, which calls the user's own module."""

    task: Task
    losses: list[Tensor] = field(default_factory=list)

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """The gradient of the batch's mean loss at `params`."""
        point = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        with torch.enable_grad():
            loss = self._mean((held or {}) | point, batch, penalty)
            parts = torch.autograd.grad(loss, list(point.values()), materialize_grads=True)
        return dict(zip(point, parts, strict=True))

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """The batch's mean loss at `params`."""
        with torch.no_grad():
            return self._mean(params, batch, None)

    def features(self, params: Tree, batch: Batch) -> Tensor:
        """The input of the model's last dense layer, in evaluation mode."""
        with torch.no_grad():
            return self.task.features(params, batch.x)

    def _mean(self, params: Tree, batch: Batch, penalty: Penalty | None) -> Tensor:
        """The mean loss over the rows of the batch that are not padding."""
        losses = self.task.loss(params, batch, penalty)
        loss = (losses * batch.mask).sum() / batch.mask.sum().clamp(min=1)
        self.losses.append(loss.detach())
        return loss
