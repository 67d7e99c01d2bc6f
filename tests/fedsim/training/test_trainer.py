"""The clients' half: chunks of any width agree, and every task can be trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.core import trees
from fedsim.core.batch import Batch
from fedsim.core.dataset import Dataset, Examples, Scale, Source
from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.models import vision
from fedsim.models.tasks import classification
from fedsim.server.setup import prepare
from fedsim.server.transport import Work
from fedsim.testing import direct
from fedsim.training.oracle import PlainOracle
from fedsim.world import partition
from privacy import dp_sgd
from strategies import batch_plans, fedavg
from strategies.step_rules import sgd
from tests.helpers.worlds import small_world

SIZES = (7, 0, 3, 12, 5, 4)


def pictures(shape, classes=4):
    """Random uint8 images for clients of unequal sizes, one of them empty."""
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.integers(256, size=(sum(SIZES), *shape), dtype=np.uint8))
    examples = Examples(x, torch.from_numpy(draw.integers(classes, size=len(x))))
    scale = Scale((0.5,) * shape[0], (0.25,) * shape[0])
    dataset = Dataset(
        name="pictures", train=examples, test=examples, num_classes=classes, scale=scale
    )
    return {
        "data": Source(name="pictures", load=lambda _: dataset),
        "split": partition.given(np.repeat(np.arange(len(SIZES)), SIZES)),
        "population": len(SIZES),
        "plan": batch_plans.shuffled_epochs(epochs=2, batch_size=3),
        "strategy": fedavg(steps=sgd(0.05)),
    }


class Convolutional(nn.Sequential):
    """Convolution, GroupNorm and two dropout layers, on 3x8x8."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(36, 8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(8, 4),
        )


TASKS = {
    "softmax": (lambda: vision.softmax_regression(192, 4), (3, 8, 8)),
    "mlp": (lambda: vision.mlp(192, 16, 4), (3, 8, 8)),
    "convolution, GroupNorm, dropout": (Convolutional, (3, 8, 8)),
    "lenet": (lambda: vision.lenet(4), (1, 28, 28)),
}


def diffs(width, task, shape, clients=range(len(SIZES))):
    """Every client's update, whatever the chunks: client -> tree."""
    world = small_world(sizes=SIZES, task=classification("task", task), **pictures(shape))
    prepared = prepare(world, Settings(width=width))
    strategy = prepared.scenario.strategy
    broadcast = strategy.broadcast(strategy.init(prepared.initial_params), 1)
    work = Work(round_num=1, broadcast=broadcast, clients=list(clients), accepted={})
    found = {}
    for replies in direct(prepared)(work):
        for row, client in enumerate(replies.clients):
            found[client] = trees.select_rows(replies.update.diff, torch.tensor([row]))
    return found


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("width", [2, 3, 6])
def test_width_one_and_width_k_agree_with_unequal_and_empty_clients(name, width):
    task, shape = TASKS[name]
    alone, together = diffs(1, task, shape), diffs(width, task, shape)
    assert alone.keys() == together.keys() == {0, 2, 3, 4, 5}
    for client, tree in alone.items():
        for key, value in tree.items():
            torch.testing.assert_close(value, together[client][key], rtol=1e-4, atol=1e-6)


def test_a_clients_result_does_not_depend_on_who_else_takes_part():
    task, shape = TASKS["mlp"]
    everyone, some = diffs(3, task, shape), diffs(3, task, shape, clients=[3, 5])
    for client in (3, 5):
        for key, value in everyone[client].items():
            torch.testing.assert_close(value, some[client][key], rtol=1e-5, atol=1e-7)


def test_local_work_equals_a_plain_pytorch_loop():
    """The reference: torch.optim.SGD over the same batches, one client."""
    task, shape = TASKS["mlp"]
    world = small_world(sizes=SIZES, task=classification("task", task), **pictures(shape))
    prepared = prepare(world, Settings(width=1))
    population, trainer = prepared.dealt, prepared.trainer
    client = 3
    schedule = trainer.schedule(1, [client])
    rows, mask = schedule.rows, schedule.mask
    steps = int(mask.any(dim=-1).sum())
    model = task()
    model.load_state_dict(prepared.initial_params)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(steps):
        used = rows[0, step][mask[0, step] > 0]
        x = population.dataset.scale(population.dataset.train.x[used])
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), population.dataset.train.y[used]).backward()
        optimiser.step()
    assert steps == 2 * 4  # two epochs of 12 examples in batches of 3
    for key, value in diffs(1, task, shape)[client].items():
        expected = model.state_dict()[key] - prepared.initial_params[key]
        torch.testing.assert_close(value[0], expected, rtol=1e-4, atol=1e-6)


def test_padding_counts_for_nothing():
    task = classification("mlp", lambda: vision.mlp(5, 4, 3))
    params, x, y = task.init(0), torch.randn(2, 5), torch.tensor([0, 2])
    short = Batch(x, y, torch.ones(2), torch.tensor(0))
    padded = Batch(
        torch.cat([x, torch.full((3, 5), 9.0)]),
        torch.tensor([0, 2, 1, 1, 1]),
        torch.tensor([1.0, 1, 0, 0, 0]),
        torch.tensor(0),
    )
    first, second = (PlainOracle(task).gradient(params, b) for b in (short, padded))
    for key in first:
        torch.testing.assert_close(first[key], second[key])


def test_a_gradient_with_stacked_layers_is_that_of_the_plain_model():
    task = classification("mlp", lambda: vision.mlp(5, 4, 3))
    batch = Batch(torch.randn(6, 5), torch.arange(6) % 3, torch.ones(6), torch.tensor(0))
    stacked, plain = (
        PlainOracle(way).gradient(task.init(0), batch)
        for way in (task, replace(task, stacked_loss=None))
    )
    for key in plain:
        torch.testing.assert_close(plain[key], stacked[key])


def test_frozen_parameters_are_shared_and_never_sent():
    def half_frozen():
        model = vision.mlp(5, 8, 3)
        model[1].requires_grad_(False)
        return model

    prepared = prepare(small_world(task=classification("half", half_frozen)), Settings(width=2))
    assert set(prepared.initial_params) == {"3.weight", "3.bias"}
    assert set(prepared.diff_template) == {"3.weight", "3.bias"}


def test_batch_norm_is_refused_with_the_reason_and_the_remedy():
    with pytest.raises(InputError, match=r"BatchNorm2d at '1'\. Use nn\.GroupNorm: running stat"):
        classification("bad", lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        # 6 * 26 + 16 * 151 + 256 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10
        (lambda: vision.lenet(10), 44_426),
        # 32 * 28 + 64 * 289 + 12544 * 128 + 128 + 128 * 10 + 10
        (vision.pfl_cnn, 1_626_442),
        # the published 11,173,962 of the BatchNorm form: GroupNorm has as many
        (lambda: vision.resnet18_gn(10), 11_173_962),
    ],
)
def test_models_have_the_published_number_of_parameters(build, parameters):
    assert sum(p.numel() for p in build().parameters()) == parameters


def test_resnet_gives_one_logit_a_class():
    assert vision.resnet18_gn(7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_an_absent_example_is_drawn_and_counted_and_contributes_nothing():
    plan = batch_plans.poisson_batches(steps=3, sampling_prob=1.0)
    scenario = small_world(mechanism=dp_sgd(noise_multiplier=1e-9), plan=plan)
    prepared = prepare(scenario, Settings())
    people, whose = prepared.trained_on, 1
    row = int(people.owned.starts[whose])
    absent = torch.zeros(len(people.owned.rows), dtype=torch.bool)
    absent[row] = True
    train = people.dataset.train
    x = train.x.clone()
    x[people.owned.rows[row]] += 100
    other = replace(people.dataset, train=Examples(x, train.y))

    def sent(population):
        trainer = replace(prepared.trainer, population=population)
        states = trees.map_leaves(prepared.client_template, lambda t: t.unsqueeze(0))
        made = trainer.train(1, prepared.broadcast_template, [whose], states)
        return torch.cat([t.flatten() for t in made.diff.values()]), float(made.num_examples)

    there, counted = sent(people)
    gone, still_counted = sent(replace(people, absent=absent))
    changed, _ = sent(replace(people, absent=absent, dataset=other))
    assert counted == still_counted
    assert torch.equal(gone, changed)
    assert not torch.allclose(gone, there)
