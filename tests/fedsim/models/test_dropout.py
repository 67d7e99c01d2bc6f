"""Dropout with keyed masks."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from fedsim.core.batch import Batch
from fedsim.core.rng import (
    Purpose,
    torch_stream,
)
from fedsim.models.dropout import KeyedDropout, keyed
from fedsim.models.tasks import classification
from tests.helpers.keys import SIGMAS, keys_of

N = 100_000


def dropped(key, *, p=0.5, salt=1, x=None):
    layer = KeyedDropout(p, salt)
    layer.key = torch.as_tensor(key)
    return layer(torch.ones(N) if x is None else x)


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(p):
    out = dropped(keys_of(1)[0], p=p)
    kept = out != 0
    torch.testing.assert_close(out[kept].unique(), torch.tensor([1 / (1 - p)]))
    std = math.sqrt(p * (1 - p) / N)
    assert abs(kept.double().mean() - (1 - p)) < SIGMAS * std
    assert abs(out.double().mean() - 1) < SIGMAS * std / (1 - p)


@pytest.mark.parametrize(
    "other", [{"key": 6}, {"key": 5 + (1 << 32)}, {"key": -5}, {"salt": 2}], ids=str
)
def test_the_mask_is_the_same_for_the_same_key_and_unrelated_for_another(other):
    mask = dropped(5) != 0
    assert torch.equal(dropped(5) != 0, mask)
    agreed = mask == (dropped(**{"key": 5} | other) != 0)
    assert abs(agreed.double().mean() - 0.5) < SIGMAS * 0.5 / math.sqrt(N)  # as fair coins agree


def test_neighbouring_elements_of_the_mask_are_uncorrelated():
    mask = dropped(keys_of(1)[0]) != 0
    for distance in (1, 2, 28, 32, 1024):
        agreed = mask[distance:] == mask[:-distance]
        assert abs(agreed.double().mean() - 0.5) < SIGMAS * 0.5 / math.sqrt(N - distance)


def test_dropout_is_the_identity_in_evaluation_and_with_p_0():
    x = torch.randn(3, 4, generator=torch_stream(0, Purpose.DATA))
    assert torch.equal(KeyedDropout(0.5, salt=1).eval()(x), x)
    assert torch.equal(dropped(5, p=0.0, x=x), x)


def test_dropout_with_p_1_drops_all_as_torch_does():
    assert dropped(5, p=1.0, x=torch.ones(4)).tolist() == nn.Dropout(1.0)(torch.ones(4)).tolist()


def test_stacked_clients_get_the_masks_that_each_gets_alone():
    layer, keys = KeyedDropout(0.5, salt=2), keys_of(4)
    x = torch.randn(4, 3, 5, generator=torch_stream(0, Purpose.DATA))
    stacked = vmap(lambda key, x: functional_call(layer, {"key": key}, (x,)))(keys, x)
    alone = [
        functional_call(layer, {"key": key}, (part,)) for key, part in zip(keys, x, strict=True)
    ]
    assert torch.equal(stacked, torch.stack(alone))
    assert not torch.equal(stacked[0] == 0, stacked[1] == 0)


@pytest.mark.parametrize(
    "count",
    [
        2,
        pytest.param(3),
    ],
)
def test_each_dropout_layer_of_a_model_has_its_own_masks(count):
    layers = keyed(nn.ModuleList(nn.Dropout(0.5) for _ in range(count)))
    assert all(isinstance(layer, KeyedDropout) for layer in layers)
    masks = [layer(torch.ones(N)) != 0 for layer in layers]
    for one, other in itertools.combinations(masks, 2):
        agreed = (one == other).double().mean()
        assert abs(agreed - 0.5) < SIGMAS * 0.5 / math.sqrt(N)


def test_a_dropout_layer_used_twice_is_keyed_in_both_places():
    drop = nn.Dropout(0.5)
    model = keyed(nn.Sequential(nn.Linear(2, 2), drop, nn.Linear(2, 2), drop))
    assert not any(type(layer) is nn.Dropout for layer in model.modules())


def test_a_tasks_loss_depends_on_the_batchs_key_and_its_prediction_does_not_drop():
    def build():
        return nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5), nn.Linear(200, 2))

    task = classification("dropouts", build)
    batch = Batch(torch.ones(2, 200), torch.tensor([0, 1]), torch.ones(2), torch.tensor(5))
    params = task.init(0)
    loss = task.loss(params, batch)
    assert torch.equal(task.loss(params, batch), loss)
    assert not torch.equal(task.loss(params, batch._replace(key=torch.tensor(6))), loss)
    logits = batch.x @ params["2.weight"].T + params["2.bias"]
    torch.testing.assert_close(task.predict(params, batch.x), logits)


def test_dropout_of_whole_channels_is_refused_with_its_place_and_the_remedy():
    with pytest.raises(ValueError, match=r"keyed: 1 must be nn\.Dropout; got Dropout2d.*Use nn\.D"):
        keyed(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout2d(0.5)))
