"""One small training, many times over: shadow models, and the game with one example in or out.

A shadow model is a client.  K clients that all own the same examples, each with coins, batches and
noise of its own and all from the same initial model, do K independent trainings as one round of
local work, by the code that trains any client, as many at once as pay.  An example that a coin
leaves out is drawn and counted, and contributes nothing: these are the zero-out neighbours that an
example-level mechanism claims for, and how many examples there are stays public.

Source
    Jagielski, Ullman, Oprea (2020), arXiv:2006.07709, for the game; Carlini et al. (2022),
    arXiv:2112.03570, for one set of trainings that serves every example.

Shapes: K models, n examples, m targets among them, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from fedsim.core import trees
from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.ledger import Entry
from fedsim.core.machine import use_threads
from fedsim.core.rng import Purpose, bits, client_keys
from fedsim.core.sampling import Sampling, Selection
from fedsim.core.scenario import (
    Aggregator,
    AnyStrategy,
    BatchPlan,
    Exposure,
    Mechanism,
    Scenario,
)
from fedsim.core.settings import Device, Settings
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.core.updates import Released
from fedsim.server.setup import PreparedRun, prepare
from fedsim.training import autotune
from fedsim.training.trainer import Trainer
from fedsim.world import partition
from fedsim.world.population import Ownership, Population
from privacy import validate
from privacy.auditing.membership import lira
from privacy.validate import Array

_EVERYONE: Selection[Any] = Selection(
    name="everyone",
    sampling=Sampling(kind="fixed", words="every client"),
    init=lambda population: (),
    choose=lambda state, draw: (range(draw.population), state),
)
_ONE: Aggregator[Any] = Aggregator(  # of one client's update, which is never asked for
    name="one", init=lambda like: (), add=lambda state, bounded: state, finish=lambda *_: None
)


@dataclass(frozen=True, kw_only=True)
class Game:
    """What is trained again and again.

    Attributes:
        data: its training examples are learned from, all by one client.
        targets: rows of those that are in or out by a coin; all others are always in.
        task: what is learned.
        strategy: how one client moves; a training is one round with it alone.
        plan: in what batches.
        mechanism: what protects examples, or none().

    Raises:
        PrivacyError: a target is no row or comes twice, or whole clients are protected.
    """

    data: Dataset
    targets: tuple[int, ...]
    task: Task
    strategy: AnyStrategy
    plan: BatchPlan
    mechanism: Mechanism[Any]

    def __post_init__(self) -> None:
        rows = len(self.data.train.y)
        if not self.targets:
            raise validate.refusal("Game", "targets", "one row or more", (), "Give (0,).")
        for row in self.targets:
            validate.whole("Game", "target", row)
            if row >= rows or self.targets.count(row) > 1:
                rule, remedy = f"a row below {rows}, named once", "Number the examples from 0."
                raise validate.refusal("Game", "target", rule, row, remedy)
        if self.mechanism.canaries == "clients":
            rule, remedy = "for examples, or none()", "Use dp_sgd: a target is an example."
            raise validate.refusal("Game", "mechanism", rule, self.mechanism.name, remedy)


@dataclass(frozen=True, kw_only=True)
class Models:
    """What came of a game.

    Attributes:
        params: [K, ...], of each model.
        included: [K, m], whether a target was in, by fair coins.
        asked: [K], one target of each model, drawn before anything was trained.
        entries: what one training is charged.
        seed: of coins, batches, noise and the initial model.
    """

    params: Tree
    included: Tensor
    asked: Tensor
    entries: tuple[Entry, ...]
    seed: int


def mislabelled(data: Dataset, rows: Sequence[int]) -> Dataset:
    """The data with these training examples in the next class: what a model learns by heart.

    An average example is learned from the others; privacy is of the worst one.
    """
    y = data.train.y.clone()
    chosen = torch.tensor(list(rows), dtype=torch.int64, device=y.device)
    y[chosen] = (y[chosen] + 1) % data.num_classes
    return replace(data, train=Examples(data.train.x, y))


def coins(seed: int, models: int, targets: int) -> Tensor:
    """Whether each model has learned from each target, by fair coins [models, targets], bool.

    Guarantees:
        A model's coins do not depend on how many models or targets there are.
    """
    return bits(_keys(seed, models), targets + 1)[:, 1:] & 1 == 1


def train_models(
    game: Game, *, models: int, seed: int, width: int | None = None, device: Device = "auto"
) -> Models:
    """Train so many models from the same start, `width` of them as one program.

    Args:
        game: what is trained.
        models: K.
        seed: of everything.
        width: None lets the machine choose.
        device: where.

    Raises:
        InputError: models, seed or width is too small, or the parts of the game do not fit.

    Guarantees:
        Models are independent of each other, given the examples and the initial model.
        A model does not depend on how many others there are, or on the width, beyond rounding.
        A target that is out changes nothing.
    """
    validate.whole("train_models", "models", models, 1)
    if width is not None:
        validate.whole("train_models", "width", width, 1)
    prepared = _opened(game, seed, device)
    included = coins(seed, models, len(game.targets))
    trainer = _trainer(prepared, game, included, width)
    with use_threads(1):  # small programs: more threads wait for each other
        params = [_trained(prepared, trainer, chunk) for chunk in trainer.chunks(range(models))]
    rows = len(game.data.train.y)
    return Models(
        params={name: torch.cat([part[name] for part in params]) for name in params[0]},
        included=included,
        asked=bits(_keys(seed, models), 1)[:, 0].remainder(len(game.targets)),
        entries=game.mechanism.spend(
            game.mechanism.init(prepared.diff_template),
            Exposure(
                scenario=prepared.scenario,
                round_num=1,
                cohort=[0],
                counts=[rows],
                calls=prepared.calls,
            ),
        ),
        seed=seed,
    )


def losses(game: Game, models: Models, *, at_once: int = 64) -> Array:
    """The loss of every model on every target [K, m], `at_once` models in one program."""
    logits = _logits(game, models, at_once)
    y = game.data.train.y[list(game.targets)].cpu()
    found = game.task.loss_of(logits.flatten(0, 1), y.repeat(len(logits)))
    return np.asarray(found.reshape(len(logits), -1).numpy(), dtype=np.float64)


def confidences(game: Game, models: Models, *, at_once: int = 64) -> Array:
    """LiRA's phi of every model in every target's own class [K, m]; of classifications.

    Raises:
        PrivacyError: the task has no classes.
    """
    logits = _logits(game, models, at_once).numpy()
    y = game.data.train.y[list(game.targets)].cpu().numpy()
    return lira.confidence(logits, np.broadcast_to(y, logits.shape[:2]))


def _keys(seed: int, models: int) -> Tensor:
    return client_keys(seed, Purpose.CANARY, 0, torch.arange(models))


def _opened(game: Game, seed: int, device: Device) -> PreparedRun:
    """The game as a scenario of one client and one round."""
    scenario = Scenario(
        data=Source(name=game.data.name, load=lambda _: game.data),
        split=partition.given(np.zeros(len(game.data.train.y), dtype=np.int64)),
        task=game.task,
        strategy=game.strategy,
        plan=game.plan,
        selection=_EVERYONE,
        aggregator=_ONE,
        mechanism=game.mechanism,
        population=1,
        cohort=1,
        rounds=1,
    )
    return prepare(scenario, Settings(seed=seed, device=device, width=1, workers=1))


def _trainer(prepared: PreparedRun, game: Game, included: Tensor, width: int | None) -> Trainer:
    """The trainer of a client for each model, all of the same examples."""
    models, rows = len(included), len(game.data.train.y)
    absent = torch.zeros(models, rows, dtype=torch.bool)
    absent[:, list(game.targets)] = ~included
    everyone: Population = replace(
        prepared.dealt,
        owned=Ownership(torch.arange(rows).repeat(models), torch.arange(models + 1) * rows),
        absent=absent.flatten(),
    )
    trainer = replace(prepared.trainer, population=everyone)
    layout = autotune.choose(
        trainer,
        broadcast=prepared.broadcast_template,
        client=prepared.client_template,
        params=prepared.initial_params,
        cohort=models,
        rounds=1,
        width=width,
        workers=1,
    )
    return replace(trainer, width=layout.width)


def _trained(prepared: PreparedRun, trainer: Trainer, chunk: list[int]) -> Tree:
    """The models of a chunk, [k, ...]: what a server would have after a round of each alone."""
    strategy = prepared.scenario.strategy
    states = trees.map_leaves(
        prepared.client_template, lambda tensor: tensor.expand(len(chunk), *tensor.shape)
    )
    diff = trainer.train(1, prepared.broadcast_template, chunk, states).diff
    server = strategy.init(prepared.initial_params)
    ended: Tree = vmap(lambda own: strategy.params(strategy.update(server, Released(own, 1.0))))(
        diff
    )
    return ended


def _logits(game: Game, models: Models, at_once: int) -> Tensor:
    """What every model says of every target [K, m, C], on the CPU."""
    train = game.data.train
    device = next(iter(models.params.values())).device
    x = game.data.ready(train.x[list(game.targets)].to(device))
    with torch.no_grad():
        run = vmap(game.task.predict, in_dims=(0, None), chunk_size=at_once)
        found: Tensor = run(models.params, x)
    return found.cpu()
