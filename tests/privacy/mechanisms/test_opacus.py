"""Opacus and the cohort's runtime give the same clipped sums, by ways that share no code."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import vmap

from fedsim.core.batch import Batch
from fedsim.core.errors import PrivacyError
from fedsim.models import vision
from fedsim.models.lora import adapt
from fedsim.models.tasks import classification
from tests.fedsim.models.test_lora import small_encoder
from tests.helpers.opacus_gradients import clipped_sum
from tests.helpers.worlds import clipped_sums, private_oracle

BASE = small_encoder()  # one, so that all copies have its frozen weights
IMAGES, TEXTS = (1, 28, 28), None
BUILDS = {
    "softmax": (lambda: vision.softmax_regression(28 * 28, 3), IMAGES),
    "mlp": (lambda: vision.mlp(28 * 28, 16, 3), IMAGES),
    "lenet": (lambda: vision.lenet(3), IMAGES),
    "residual network with GroupNorm": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, (3, 2), padding=1, dilation=(1, 2)),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            vision._Residual(4, 6, stride=2, groups=2),
            vision._Residual(6, 6, stride=1, groups=3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        ),
        (3, 12, 12),
    ),
    "adapted encoder": (
        lambda: adapt(copy.deepcopy(BASE), "query|value|dense", rank=3, alpha=6.0, learn="^head"),
        TEXTS,
    ),
}
K, B = 3, 6


def world(name, dtype):
    """A task, its module, parameters [k, ...] and batches of three clients, the last one empty."""
    build, shape = BUILDS[name]
    task = classification(name, lambda: build().to(dtype))
    draw = torch.Generator().manual_seed(0)
    each = [task.init(seed) for seed in range(K)]
    params = {key: torch.stack([one[key] for one in each]) for key in each[0]}
    if shape is TEXTS:
        x = torch.randint(1, 20, (K, B, 5), generator=draw)
        params = {  # as B starts at zero, A would have no gradient
            key: value + 0.3 * torch.randn(value.shape, generator=draw).to(dtype)
            for key, value in params.items()
        }
    else:
        bright = torch.logspace(-1, 1, B).reshape(B, *(1,) * len(shape))
        x = (torch.randn(K, B, *shape, generator=draw) * bright).to(dtype)
    y = torch.randint(3, (K, B), generator=draw)
    mask = torch.tensor([[1.0] * B, [1.0] * (B - 2) + [0.0] * 2, [0.0] * B], dtype=dtype)
    return task, build().to(dtype), params, Batch(x, y, mask, torch.arange(K))


def by_opacus(model, params, batch, clip_norm, way):
    """The clipped sums of all clients, one after the other, [k, ...]."""
    sums = []
    for i, (x, y, mask) in enumerate(zip(batch.x, batch.y, batch.mask, strict=True)):
        point = {key: value[i] for key, value in params.items()}
        model.load_state_dict(point, strict=False)
        sums.append(clipped_sum(model, x, y, clip_norm, way=way, mask=mask))
    return {key: torch.stack([one[key] for one in sums]) for key in sums[0]}


def middling(task, params, batch):
    """A clip norm that some examples exceed and some do not."""
    norms = clipped_sums(task, params, batch, 1.0).norms[batch.mask > 0]
    return float(norms.median()) * 1.01


def assert_equal(found, wanted, tolerance):
    """To a part of the largest number in all tensors."""
    assert found.keys() == wanted.keys()
    most = max(float(value.abs().max()) for value in wanted.values())
    assert most > 0
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=tolerance * most, msg=key)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("way", ["hooks", "ghost"])
@pytest.mark.parametrize("name", BUILDS)
def test_both_ways_give_what_the_cohorts_runtime_gives(name, way, dtype, tolerance):
    task, model, params, batch = world(name, dtype)
    clip_norm = middling(task, params, batch)
    ours = clipped_sums(task, params, batch, clip_norm)
    clipped = (ours.norms > clip_norm)[batch.mask > 0]
    assert clipped.any()
    assert not clipped.all()
    theirs = by_opacus(model, params, batch, clip_norm, way)
    assert_equal(ours.total, theirs, tolerance)
    assert not any(value[2].any() for value in theirs.values())  # the empty batch


@pytest.mark.parametrize("way", ["hooks", "ghost"])
@pytest.mark.parametrize("name", BUILDS)
def test_dp_sgd_without_its_noise_is_opacuss_sum_over_the_public_divisor(name, way):
    task, model, params, batch = world(name, torch.float64)
    clip_norm = middling(task, params, batch)

    def one(own, own_batch):
        return private_oracle(task, clip_norm, 0.0, 4.0).gradient(own, own_batch)

    wanted = by_opacus(model, params, batch, clip_norm, way)
    wanted = {key: value / 4 for key, value in wanted.items()}
    assert_equal(vmap(one)(params, batch), wanted, 1e-12)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("way", ["hooks", "ghost"])
@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_an_example_whose_gradient_is_not_finite_contributes_nothing(name, way, poison):
    _, model, _, batch = world(name, torch.float64)
    x, y = batch.x[0].clone(), batch.y[0]
    whole = torch.ones(B)
    without = clipped_sum(model, x, y, 0.5, way=way, mask=whole.index_fill(0, torch.tensor(2), 0))
    x[2] = poison
    found = clipped_sum(model, x, y, 0.5, way=way)
    assert_equal(found, without, 1e-12)
    x[:] = poison
    assert not any(value.any() for value in clipped_sum(model, x, y, 0.5, way=way).values())


@pytest.mark.parametrize("way", ["hooks", "ghost"])
def test_an_empty_batch_gives_zeros(way):
    model = vision.mlp(6, 5, 3)
    found = clipped_sum(model, torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64), 1.0, way=way)
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in model.named_parameters()
    }
    assert not any(value.any() for value in found.values())


@pytest.mark.parametrize("way", ["hooks", "ghost"])
def test_the_model_stays_as_it_was(way):
    model = vision.mlp(6, 5, 3).eval()
    before = {key: dict(vars(module)) for key, module in model.named_modules()}
    clipped_sum(model, torch.ones(2, 6), torch.tensor([0, 1]), 1.0, way=way)
    assert {key: dict(vars(module)) for key, module in model.named_modules()} == before
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in model.parameters())


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_norm_must_be_above_zero(clip_norm):
    with pytest.raises(PrivacyError, match="clipped_sum: clip_norm must be > 0"):
        clipped_sum(vision.mlp(6, 5, 3), torch.ones(1, 6), torch.ones(1), clip_norm, way="hooks")
