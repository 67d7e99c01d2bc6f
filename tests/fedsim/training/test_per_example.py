"""Per-example clipping: the layers' own rules give what one example at a time gives."""

from dataclasses import replace

import pytest
import torch
from torch.func import vmap

from fedsim.core.batch import Batch
from fedsim.core.errors import PrivacyError
from fedsim.core.settings import Settings
from fedsim.models.tasks import classification
from fedsim.server.setup import prepare
from privacy import dp_sgd
from tests.fedsim.models.test_vectorized_layers import MODELS, clients, row
from tests.helpers.worlds import clipped_sums, private_oracle, small_world


def world(name):
    build, shape = MODELS[name]
    task = classification(name, build)
    return task, *clients(task, shape)


def one_by_one(task, params, batch, clip_norm):
    """The definition: a gradient for each example, clipped, summed."""
    totals, norms = [], []
    for i in range(len(batch.x)):
        point = {name: v.detach().requires_grad_() for name, v in row(params, i).items()}
        losses = task.loss(point, Batch(*(part[i] for part in batch)))
        total = {name: torch.zeros_like(value) for name, value in point.items()}
        for loss, real in zip(losses, batch.mask[i], strict=True):
            gradient = torch.autograd.grad(loss, list(point.values()), retain_graph=True)
            norm = torch.cat([part.flatten() for part in gradient]).norm()
            norms.append(norm)
            for name, part in zip(point, gradient, strict=True):
                total[name] += real * part * min(1.0, clip_norm / float(norm))
        totals.append(total)
    return totals, torch.stack(norms).reshape(batch.mask.shape)


# Dropout's mask is drawn for a batch, so an example alone would see another one.
WITHOUT_DROPOUT = [name for name in MODELS if name not in ("dropout of images", "pfl_cnn")]


def each_of(names):
    """As parameters; the deepest takes long."""
    slow = {"resnet18_gn": pytest.mark.slow}
    return [pytest.param(name, marks=slow.get(name, ())) for name in names]


@pytest.mark.parametrize("name", each_of(WITHOUT_DROPOUT))
def test_clipped_sums_are_those_of_one_example_at_a_time(name):
    task, params, batch = world(name)
    totals, norms = one_by_one(task, params, batch, clip_norm=0.7)
    clip_norm = float(norms.median())  # so that some are clipped and some are not
    totals, _ = one_by_one(task, params, batch, clip_norm)
    found = clipped_sums(task, params, batch, clip_norm)
    torch.testing.assert_close(found.norms, norms)
    for i, total in enumerate(totals):
        for key, value in total.items():
            torch.testing.assert_close(found.total[key][i], value)


@pytest.mark.parametrize("name", ["mlp", "lenet", "branches"])
def test_a_model_without_stacked_layers_gives_the_same(name):
    task, params, batch = world(name)
    found = clipped_sums(task, params, batch, 0.5)
    other = clipped_sums(replace(task, stacked_loss=None), params, batch, 0.5)
    torch.testing.assert_close(found.total, other.total)
    torch.testing.assert_close(found.norms, other.norms)
    torch.testing.assert_close(found.losses, other.losses)


@pytest.mark.parametrize("name", each_of(["mlp", "lenet", "resnet18_gn", "tokens"]))
@pytest.mark.parametrize("stacked_layers", [True, False])
def test_no_example_contributes_more_than_the_clip_norm(name, stacked_layers):
    task, params, batch = world(name)
    task = task if stacked_layers else replace(task, stacked_loss=None)
    only = batch._replace(mask=torch.zeros_like(batch.mask))
    only.mask[:, 0] = 1
    total = clipped_sums(task, params, only, 1e-3).total
    length = torch.cat([value.flatten(1) for value in total.values()], dim=1).norm(dim=1)
    assert (length <= 1e-3 * (1 + 1e-6)).all()
    assert (length > 0.99e-3).all()


@pytest.mark.parametrize("name", ["mlp", "lenet"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("stacked_layers", [True, False])
def test_an_example_whose_gradient_is_not_finite_contributes_nothing(name, poison, stacked_layers):
    task, params, batch = world(name)
    task = task if stacked_layers else replace(task, stacked_loss=None)
    without = batch._replace(mask=batch.mask.clone(), x=batch.x.clone())
    without.mask[0, 1] = 0
    poisoned = batch._replace(x=batch.x.clone())
    poisoned.x[0, 1] = poison
    found = clipped_sums(task, params, poisoned, 0.5).total
    torch.testing.assert_close(found, clipped_sums(task, params, without, 0.5).total)


# --- the oracle ----------------------------------------------------------------------------------


def oracle_of(task, noise_std=0.0):
    return private_oracle(task, 0.5, noise_std, 4.0)


def asked(task, params, batch, noise_std, times=1):
    """The gradients of k clients under vmap."""

    def one(own, own_batch):
        oracle = oracle_of(task, noise_std)
        return [oracle.gradient(own, own_batch) for _ in range(times)]

    return vmap(one)(params, batch)


def test_without_noise_the_oracle_gives_the_clipped_sum_over_the_public_divisor():
    task, params, batch = world("lenet")
    (gradient,) = asked(task, params, batch, 0.0)
    for name, total in clipped_sums(task, params, batch, 0.5).total.items():
        torch.testing.assert_close(gradient[name], total / 4)


def test_a_client_alone_gets_the_noise_that_it_gets_in_a_stack():
    task, params, batch = world("mlp")
    (stacked,) = asked(task, params, batch, 0.3)
    for i in range(len(batch.x)):
        own = Batch(*(part[i] for part in batch))
        alone = oracle_of(task, 0.3).gradient(row(params, i), own)
        for name, value in alone.items():
            torch.testing.assert_close(stacked[name][i], value)


def test_every_call_every_client_and_every_step_draws_noise_of_its_own():
    task, params, batch = world("mlp")
    first, second = asked(task, params, batch, 1.0, times=2)
    later = batch._replace(key=batch.key + 1)
    (third,) = asked(task, params, later, 1.0)
    draws = [
        first["1.weight"][0],
        first["1.weight"][1],
        second["1.weight"][0],
        third["1.weight"][0],
    ]
    for i, draw in enumerate(draws):
        assert all(not torch.equal(draw, other) for other in draws[:i])


def test_the_noise_has_the_standard_deviation_that_was_asked_for():
    task, params, batch = world("lenet")
    (quiet,), (loud,) = (asked(task, params, batch, std) for std in (0.0, 2.0))
    noise = torch.cat([(loud[name] - quiet[name]).flatten() for name in loud]) * 4 / 2.0
    n = noise.numel()
    assert n > 100_000
    # a sample's variance is within 5 standard errors; 2/3 and 3/2 of the scale are far outside
    assert abs(float(noise.var()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float(noise.mean())) < 5 / n**0.5


def test_a_loss_value_cannot_be_had_from_a_private_oracle():
    task, params, batch = world("mlp")
    with pytest.raises(PrivacyError, match="a loss, which cannot be had under privacy"):
        oracle_of(task).value(row(params, 0), Batch(*(part[0] for part in batch)))


def test_the_trainer_asks_the_mechanisms_oracle():
    private = dp_sgd(noise_multiplier=1e-9, clip=1e-9)
    prepared = prepare(small_world(mechanism=private), Settings(width=2, workers=1))
    made = prepared.trainer.train(1, prepared.broadcast_template, [4, 3], prepared.client_template)
    assert all(float(part.abs().max()) < 1e-7 for part in made.diff.values())


def test_more_questions_than_were_charged_are_refused():
    task, params, batch = world("mlp")
    oracle = private_oracle(task, 0.5, 0.1, 4.0, calls=1)
    own = row(params, 0), Batch(*(part[0] for part in batch))
    oracle.gradient(*own)
    with pytest.raises(PrivacyError, match="calls must be at most 1 in a step"):
        oracle.gradient(*own)
