"""Small worlds that several tests share, and ways to run them without a folder."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

from fedsim.core import trees
from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.example_rule import ClientFacts
from fedsim.core.sampling import Everyone
from fedsim.core.scenario import Scenario
from fedsim.core.settings import Settings
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.core.updates import Bounded
from fedsim.models.tasks import classification
from fedsim.models.vision import mlp
from fedsim.server.round import Outcome
from fedsim.server.setup import PreparedRun, prepare
from fedsim.testing import direct, run_rounds
from fedsim.training.client_state import ClientStates
from fedsim.training.oracle import PrivateOracle
from fedsim.training.per_example import example_sums
from fedsim.world import partition
from privacy import none
from privacy.mechanisms.clipping import flat
from privacy.mechanisms.dp_sgd import fixed_rule
from strategies import batch_plans, client_selection, fedavg
from strategies.aggregators import mean
from strategies.fedavg import Local
from strategies.step_rules import sgd


def blobs(sizes, *, inputs=5, classes=3, seed=0, poison=None) -> Source:
    """Gaussian blobs for clients of the given sizes; a poisoned client's inputs are NaN."""

    def load(data_dir):
        draw = np.random.default_rng(seed)
        owners = np.repeat([f"{i:04d}" for i in range(len(sizes))], sizes)
        y = draw.integers(classes, size=len(owners))
        centre = draw.normal(size=(classes, inputs)) * 2
        x = (centre[y] + draw.normal(size=(len(owners), inputs))).astype(np.float32)
        test_y = draw.integers(classes, size=60)
        test_x = (centre[test_y] + draw.normal(size=(60, inputs))).astype(np.float32)
        if poison is not None:
            x[owners == f"{poison:04d}"] = np.nan
        return Dataset(
            name="blobs",
            train=Examples(torch.from_numpy(x), torch.from_numpy(y)),
            test=Examples(torch.from_numpy(test_x), torch.from_numpy(test_y)),
            num_classes=classes,
            train_owners=owners,
        )

    return Source(name="blobs", load=load)


def small_world(**changes) -> Scenario:
    """A scenario of six clients, 1 to 20 examples each, that trains in milliseconds."""
    sizes = changes.pop("sizes", (1, 5, 8, 12, 20, 3))
    given = {
        "data": blobs(sizes, poison=changes.pop("poison", None)),
        "split": partition.natural(),
        "task": classification("mlp", lambda: mlp(5, 8, 3)),
        "strategy": fedavg(steps=sgd(0.1)),
        "plan": batch_plans.shuffled_epochs(epochs=2, batch_size=4),
        "selection": client_selection.uniform(),
        "aggregator": mean(),
        "mechanism": none(),
        "population": len(sizes),
        "cohort": min(4, len(sizes)),
        "rounds": 3,
        "evaluate_every": 1,
    }
    return Scenario(**(given | changes))


def clipped_sums(task, params, batch, clip_norm, **more):
    """The sum of examples' gradients, each clipped to that norm, and the norms before."""
    found = example_sums(task, params, batch, flat(clip_norm).factors, **more)
    return SimpleNamespace(total=found.totals[0], norms=found.norms(), losses=found.losses)


def noised_by(clip_norm, noise_std):
    """DP-SGD's rule, which a test may have without noise."""
    return fixed_rule(flat(clip_norm), noise_std / clip_norm)


def private_oracle(task, clip_norm, noise_std, expected, calls=9):
    """An oracle of DP-SGD outside of any run."""
    facts = ClientFacts(torch.tensor(expected), torch.tensor(77))
    return PrivateOracle(task, facts, noised_by(clip_norm, noise_std), calls)


def points_world(points, **changes) -> Scenario:
    """Client i's loss at x is the mean of 1/2 ||x - p||^2 over its points, [clients, m, dims]."""
    clients, size, dims = points.shape

    def loss(params, batch, penalty=None):
        return (params["x"] - batch.x).square().sum(dim=1) / 2

    examples = Examples(points.reshape(-1, dims), torch.zeros(clients * size, dtype=torch.int64))
    dataset = Dataset(name="points", train=examples, test=examples, num_classes=1)
    task = Task(
        name="points",
        init=lambda seed: {"x": torch.zeros(dims, dtype=points.dtype)},
        loss=loss,
        stacked_loss=None,
        predict=lambda params, x: x,
        features=lambda params, x: x,
        loss_of=lambda logits, y: logits,
        convolutional=False,
    )
    given = {
        "sizes": (size,) * clients,
        "data": Source(name="points", load=lambda _: dataset),
        "split": partition.given(np.repeat(np.arange(clients), size)),
        "task": task,
        "plan": batch_plans.random_batches(steps=1, batch_size=1),
        "aggregator": mean("uniform"),
        "cohort": clients,
    }
    return small_world(**(given | changes))


class Ended(NamedTuple):
    """A run after some rounds: models in order, the last outcome, the set-up, client states."""

    models: list
    outcome: Outcome
    prepared: PreparedRun
    states: ClientStates


def run_by_hand(scenario, *, rounds=1, seed=1, width=None) -> Ended:
    """Some rounds without Flower or a folder."""
    width = scenario.cohort if width is None else width
    settings = Settings(seed=seed, width=width, workers=1, device="cpu")  # nothing to measure
    prepared = prepare(scenario, settings)
    states = ClientStates(prepared.client_template)
    after = run_rounds(prepared, direct(prepared, states), range(1, rounds + 1))
    return Ended(after.models, after.outcomes[-1], prepared, states)


def updates(seed, count=9):
    """A stack of two tensors in general position, and numbers of examples."""
    stream = torch.Generator().manual_seed(seed)
    stack = {
        "a": torch.randn(count, 3, 4, generator=stream),
        "b": 10 * torch.randn(count, 5, generator=stream),
    }
    return stack, torch.randint(1, 50, (count,), generator=stream).float()


def combined(rule, stack, weights, cuts=()):
    """What a rule makes of updates that come in portions, each in the memory of the one before."""
    state = rule.init({name: value[0] for name, value in stack.items()})
    edges = [0, *cuts, len(weights)]
    for start, stop in itertools.pairwise(edges):
        portion = {name: value[start:stop].clone() for name, value in stack.items()}
        counts = weights[start:stop].clone()
        state = rule.add(state, Bounded(portion, counts, math.inf))
        for memory in (*portion.values(), counts):
            memory.fill_(torch.nan)
    return rule.finish(state, Everyone(weights, 0.5))


class Drift(NamedTuple):
    """A client's memory: the sum of what it sent."""

    total: Tree


def remembering(steps):
    """FedAvg whose clients subtract a part of what they sent before: a strategy with state."""
    base = fedavg(steps=steps)

    def local_step(local, batch, oracle, model, client):
        def gradient(y):
            return trees.add_scaled(oracle.gradient(y, batch), client.total, 0.1)

        return Local(*steps.step(local.rule, local.params, gradient))

    def local_end(local, model, client):
        diff = trees.subtract(local.params, model.params)
        return diff, Drift(trees.add(client.total, diff))

    return replace(
        base,
        name="remembering",
        client_init=lambda params: Drift(trees.zeros_like(params)),
        local_step=local_step,
        local_end=local_end,
    )
