"""Stacked layers give what each client's own network gives."""

import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.nn import functional

from fedsim.core.batch import Batch
from fedsim.models import vision
from fedsim.models.tasks import classification
from fedsim.models.vectorized.layers import stacked_forward
from fedsim.training.oracle import PlainOracle


class Gate(nn.Module):
    """Two branches that meet: a sum, and a product with a squashed copy."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(2, 4, 3, padding=1)
        self.right = nn.Conv2d(2, 4, 1, bias=False)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x):
        both = self.norm(self.left(x) + self.right(x))
        return both * torch.sigmoid(both)


class Branching(nn.Module):
    """Control flow that depends on data cannot be stacked."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


MODELS = {
    "softmax": (lambda: vision.softmax_regression(6, 3), (6,)),
    "mlp": (lambda: vision.mlp(6, 5, 3), (6,)),
    "lenet": (lambda: vision.lenet(3), (1, 28, 28)),
    "pfl_cnn": (lambda: vision.pfl_cnn(3), (3, 32, 32)),
    "resnet18_gn": (lambda: vision.resnet18_gn(3), (3, 16, 16)),
    "branches": (lambda: nn.Sequential(Gate(), nn.Flatten(), nn.Linear(64, 3)), (2, 4, 4)),
    "grouped convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(6, 3),
        ),
        (4, 6, 6),
    ),
    "tokens": (
        lambda: nn.Sequential(
            nn.Linear(5, 4, bias=False), nn.LayerNorm(4), nn.GELU(), nn.Flatten(), nn.Linear(12, 3)
        ),
        (3, 5),
    ),
    "norm of vectors": (lambda: nn.Sequential(nn.Linear(5, 6), nn.GroupNorm(2, 6)), (5,)),
    "dropout of images": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.Dropout(0.5), nn.Flatten(), nn.Dropout(0.25), nn.Linear(12, 3)
        ),
        (2, 4, 4),
    ),
}


def clients(task, shape, k=3, b=4, dtype=torch.float64):
    """Parameters and batches of k clients, in float64, with padding."""
    draw = torch.Generator().manual_seed(0)
    each = [task.init(seed) for seed in range(k)]
    params = {name: torch.stack([one[name] for one in each]).to(dtype) for name in each[0]}
    mask = torch.tensor([[1.0] * b, [1.0] * (b - 1) + [0.0], [1.0] + [0.0] * (b - 1)])
    batch = Batch(
        torch.randn(k, b, *shape, generator=draw, dtype=dtype),
        torch.randint(3, (k, b), generator=draw),
        mask.to(dtype),
        torch.arange(k) * 1_000_003,
    )
    return params, batch


def row(tree, i):
    return {name: tensor[i] for name, tensor in tree.items()}


@pytest.mark.parametrize("name", MODELS)
def test_every_clients_loss_and_gradient_are_those_of_its_own_network(name):
    build, shape = MODELS[name]
    task = classification(name, build)
    assert task.stacked_loss is not None
    params, batch = clients(task, shape)
    losses = task.stacked_loss(params, batch)
    gradients = vmap(lambda p, own: PlainOracle(task).gradient(p, own))(params, batch)
    for i in range(len(batch.x)):
        own = Batch(*(part[i] for part in batch))
        point = {key: value.requires_grad_() for key, value in row(params, i).items()}
        expected = task.loss(point, own)
        torch.testing.assert_close(losses[i], expected)
        mean = (expected * own.mask).sum() / own.mask.sum()
        wanted = torch.autograd.grad(mean, list(point.values()))
        for key, gradient in zip(point, wanted, strict=True):
            torch.testing.assert_close(gradients[key][i], gradient)


def test_a_point_that_all_clients_share_needs_no_stack():
    task = classification("mlp", lambda: vision.mlp(6, 5, 3))
    _, batch = clients(task, (6,))
    shared = {name: value.double() for name, value in task.init(7).items()}
    stacked = vmap(lambda own: PlainOracle(task).gradient(shared, own))(batch)
    for i in range(len(batch.x)):
        alone = PlainOracle(task).gradient(shared, Batch(*(part[i] for part in batch)))
        for name, value in alone.items():
            torch.testing.assert_close(stacked[name][i], value)


def test_a_gradient_has_the_layout_of_its_parameter():
    """Otherwise every later pass over it is slow."""
    task = classification("lenet", lambda: vision.lenet(3))
    params, batch = clients(task, (1, 28, 28))
    gradients = vmap(lambda p, own: PlainOracle(task).gradient(p, own))(params, batch)
    dense = [name for name, value in params.items() if value.dim() == 3]
    assert dense
    assert all(gradients[name].stride() == params[name].stride() for name in dense)


@pytest.mark.parametrize(
    "build",
    [
        Branching,
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=0)),
        lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")),
        lambda: nn.Sequential(nn.Flatten(start_dim=0)),
        lambda: nn.Linear(4, 3),
    ],
)
def test_what_has_no_stacked_form_is_left_to_vmap(build):
    assert stacked_forward(build()) is None


def test_a_model_without_a_stacked_form_still_trains_as_a_stack():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return functional.softplus(self.layer(x)) * self.scale

    task = classification("scaled", Scaled)
    assert task.stacked_loss is None
    params, batch = clients(task, (6,))
    stacked = vmap(lambda p, own: PlainOracle(task).gradient(p, own))(params, batch)
    for i in range(len(batch.x)):
        alone = PlainOracle(task).gradient(row(params, i), Batch(*(part[i] for part in batch)))
        for name, value in alone.items():
            torch.testing.assert_close(stacked[name][i], value)
