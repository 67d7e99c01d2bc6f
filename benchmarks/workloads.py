"""What every contender trains: the same tensors, clients, batches, steps and first parameters.

Who is in a cohort and in which order examples are used comes from fedsim's own schedule, so that
contenders can be asked for the same numbers. Contenders other than ours get it made beforehand,
outside the timed section: ours makes it while the clock runs, as a user's run does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.rng import Purpose, client_keys
from fedsim.core.scenario import Mechanism, Scenario
from fedsim.core.settings import Settings
from fedsim.core.trees import Tree
from fedsim.models import vision
from fedsim.models.tasks import classification
from fedsim.server.round import begin, plan_round
from fedsim.server.setup import PreparedRun, prepare
from fedsim.server.transport import Replies, Work
from fedsim.world import partition
from privacy import dp_sgd, none
from strategies import batch_plans, client_selection, fedavg
from strategies.aggregators import mean
from strategies.step_rules import sgd

LR = 0.1
SEED = 1
CLIP_NORM = 1.0  # of the private workload
NOISE_MULTIPLIER = 1.0
_JUDGED = 1000  # examples whose loss tells whether two contenders did the same work


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One size of simulation. examples, batch: of each client, which takes one epoch.

    rounds: how many are timed, after one that is not.
    private: example-level DP-SGD in place of SGD.
    random: dropout or noise, which each contender draws its own way: no numbers to compare.
    """

    name: str
    text: str
    population: int
    cohort: int
    examples: int
    batch: int
    shape: tuple[int, ...]
    build: Callable[[], nn.Module]
    rounds: int
    private: bool = False
    random: bool = False

    @property
    def last_round(self) -> int:
        """The number of the last timed round; round 1 is the one that is not timed."""
        return 1 + self.rounds


_SMALL_CNN = {
    "population": 200,
    "cohort": 20,
    "examples": 300,
    "batch": 32,
    "shape": (1, 28, 28),
    "build": lambda: vision.lenet(10),
}

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(
            name="W1",
            text="pfl-cifar10: 1000 / 50 clients, 50 images 3x32x32, batch 10, the pfl CNN",
            population=1000,
            cohort=50,
            examples=50,
            batch=10,
            shape=(3, 32, 32),
            build=vision.pfl_cnn,
            rounds=2,
            random=True,
        ),
        Workload(
            name="W2",
            text="overhead: 1000 / 100 clients, 18 samples, batch 6, softmax regression 64 -> 10",
            population=1000,
            cohort=100,
            examples=18,
            batch=6,
            shape=(64,),
            build=lambda: vision.softmax_regression(64, 10),
            rounds=20,
        ),
        Workload(
            name="W3",
            text="small CNN: 200 / 20 clients, 300 samples 28x28, batch 32, LeNet-like",
            rounds=5,
            **_SMALL_CNN,
        ),
        Workload(
            name="W4",
            text=f"private: W3 with DP-SGD, clip {CLIP_NORM:g}, noise {NOISE_MULTIPLIER:g}",
            rounds=3,
            private=True,
            random=True,
            **_SMALL_CNN,
        ),
    )
}


class Turn(NamedTuple):
    """A client's local work in one round: its number, and the examples of each of its steps."""

    client: int
    batches: list[Tensor]


@dataclass(frozen=True, kw_only=True)
class World:
    """A workload's tensors, and all that every round asks: round -> the turns of its cohort."""

    workload: Workload
    x: Tensor
    y: Tensor
    params: Tree
    plan: Mapping[int, list[Turn]]


def experiment_of(workload: Workload, *, workers: int, width: int | None = None) -> PreparedRun:
    """The workload as a scenario of ours, opened."""
    settings = Settings(device="cpu", seed=SEED, workers=workers, width=width)
    return prepare(scenario_of(workload), settings)


def scenario_of(workload: Workload) -> Scenario:
    """The workload as a scenario of ours: random examples, equal clients."""
    clients = np.repeat(np.arange(workload.population), workload.examples)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(len(clients), *workload.shape, generator=draw)
    y = torch.randint(10, (len(clients),), generator=draw)
    dataset = Dataset(
        name="random", train=Examples(x, y), test=Examples(x[:10], y[:10]), num_classes=10
    )
    return Scenario(
        data=Source(name="random", load=lambda _: dataset),
        split=partition.given(clients),
        task=classification("model", workload.build),
        strategy=fedavg(steps=sgd(LR)),
        plan=batch_plans.shuffled_epochs(epochs=1, batch_size=workload.batch),
        selection=client_selection.uniform(),
        aggregator=mean(),
        mechanism=_clipped() if workload.private else none(),
        population=workload.population,
        cohort=workload.cohort,
        rounds=workload.last_round,
    )


def _clipped() -> Mechanism:
    """The arithmetic of DP-SGD on fixed batches; like the peers here, without a guarantee."""
    private = dp_sgd(noise_multiplier=NOISE_MULTIPLIER, clip=CLIP_NORM)
    return replace(none(), example_rule=private.example_rule)


def open_world(workload: Workload) -> World:
    """What a peer needs, its batches made beforehand."""
    prepared = experiment_of(workload, workers=1, width=1)
    return World(
        workload=workload,
        x=prepared.dealt.dataset.train.x,
        y=prepared.dealt.dataset.train.y,
        params=prepared.initial_params,
        plan={number: _turns(prepared, number) for number in range(1, workload.last_round + 1)},
    )


def _turns(prepared: PreparedRun, round_num: int) -> list[Turn]:
    """The cohort of a round and its batches, as our trainer would make them."""
    scenario = prepared.scenario
    clients = plan_round(prepared, begin(prepared), round_num, {}, _unused_exchange).clients
    owned, ids = prepared.dealt.owned, torch.tensor(clients)
    keys = client_keys(SEED, Purpose.BATCHES, round_num, ids)
    places = scenario.plan.schedule(owned.counts()[ids], keys, round_num, None)
    return [
        Turn(client, [owned.of(client)[batch[batch >= 0]] for batch in own])
        for client, own in zip(clients, places, strict=True)
    ]


def _unused_exchange(work: Work) -> Iterator[Replies]:
    """An exchange that is never called: the selection needs no losses."""
    return iter(())


def fingerprint(world: World, params: Tree) -> dict[str, float]:
    """Two numbers that tell whether two contenders did the same work.

    moved: how far the parameters went from the first ones; loss: on the first examples.
    """
    moved = sum(
        float((params[name] - first).square().sum()) for name, first in world.params.items()
    )
    model = world.workload.build().eval()
    model.load_state_dict(params)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(world.x[:_JUDGED]), world.y[:_JUDGED])
    return {"moved": moved**0.5, "loss": float(loss)}
