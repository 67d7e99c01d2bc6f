"""A world whose optimum is known: every client's loss is a quadratic of its own, in float64."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.settings import Settings
from fedsim.core.task import Task
from fedsim.server.round import begin
from fedsim.server.setup import prepare
from fedsim.testing import direct, run_rounds
from fedsim.training.client_state import ClientStates
from fedsim.world import partition
from strategies import batch_plans
from strategies.aggregators import mean
from tests.helpers.worlds import small_world

CLIENTS, DIMS = 8, 3
_draw = np.random.default_rng(5)
CURVES = torch.from_numpy(_draw.uniform(0.5, 3.0, (CLIENTS, DIMS)))
CENTRES = torch.from_numpy(_draw.normal(0, 2, (CLIENTS, DIMS)))
OPTIMUM = (CURVES * CENTRES).sum(0) / CURVES.sum(0)  # of the mean of 1/2 sum_j a_ij (x_j - c_ij)^2


def quadratic() -> Task:
    """Client i's loss is 1/2 sum_j a_ij (x_j - c_ij)^2; its one example is (a_i, c_i)."""

    def loss(params, batch, penalty=None):
        curves, centres = batch.x.unbind(dim=1)
        return (curves * (params["x"] - centres).square()).sum(dim=1) / 2

    return Task(
        name="quadratic",
        init=lambda seed: {"x": torch.zeros(DIMS, dtype=torch.float64)},
        loss=loss,
        stacked_loss=None,
        predict=lambda params, x: x,
        features=lambda params, x: x,
        loss_of=lambda logits, y: logits,
        convolutional=False,
    )


def quadratics() -> Source:
    def load(data_dir: Path | None) -> Dataset:
        x = torch.stack([CURVES, CENTRES], dim=1)
        examples = Examples(x, torch.zeros(CLIENTS, dtype=torch.int64))
        return Dataset(name="quadratics", train=examples, test=examples, num_classes=1)

    return Source(name="quadratics", load=load)


class Run(NamedTuple):
    """What there is after some rounds: models in order, the server's state, clients' states."""

    models: list
    server: object
    clients: object


def run(strategy, *, rounds=1, cohort=CLIENTS, steps=10, start=None, aggregator=None, states=None):
    scenario = small_world(
        data=quadratics(),
        split=partition.given(np.arange(CLIENTS)),
        task=quadratic(),
        strategy=strategy,
        plan=batch_plans.random_batches(steps=steps, batch_size=1),
        aggregator=aggregator or mean("uniform"),
        population=CLIENTS,
        cohort=cohort,
    )
    prepared = prepare(scenario, Settings(width=CLIENTS, device="cpu"))
    held = begin(prepared)
    if start is not None:
        held = held._replace(strategy=held.strategy._replace(**start))
    memory = ClientStates(prepared.client_template)
    if states is not None:
        memory.restore({"committed": states, "pending": {}})
    after = run_rounds(prepared, direct(prepared, memory), range(1, rounds + 1), held)
    models = [model["x"] for model in after.models]
    clients = memory.fetch(list(range(CLIENTS)), after.accepted).own
    return Run(models, after.held.strategy, clients)


def distance(model):
    return float((model - OPTIMUM).norm())


def same(first, second, tolerance=1e-12):
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


GRADIENTS_AT_OPTIMUM = CURVES * (OPTIMUM - CENTRES)  # [clients, dims], their mean is zero
