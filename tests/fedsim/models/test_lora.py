"""LoRA adapters: what they change, what is learned, and that frozen weights are not copied."""

import types

import cloudpickle
import pytest
import torch
from torch import nn
from torch.func import vmap

from fedsim.core.batch import Batch
from fedsim.core.errors import InputError
from fedsim.models.lora import Adapted, a_of, adapt, adapters, b_of, halves
from fedsim.models.tasks import classification
from fedsim.models.transformer import encoder
from fedsim.models.vectorized import layers
from fedsim.models.vision import mlp
from fedsim.training.oracle import PlainOracle
from tests.fedsim.models.test_vectorized_layers import clients, row
from tests.fedsim.training.test_per_example import one_by_one
from tests.helpers.worlds import clipped_sums

WORDS = 20


def small_encoder():
    """Two layers of width 8 for texts of 5 words, in float64."""
    return encoder(vocabulary=WORDS, num_classes=3, length=5, width=8, heads=2).double()


def adapted_mlp():
    return adapt(mlp(6, 5, 3).double(), "^1$", rank=2, alpha=4.0)


MODELS = {
    "mlp": (adapted_mlp, "floats"),
    "encoder": (small_encoder, "tokens"),
    "adapted encoder": (
        lambda: adapt(small_encoder(), "query|value", rank=3, alpha=6.0),
        "tokens",
    ),
    "adapted encoder with a head": (
        lambda: adapt(small_encoder(), "query|dense", rank=2, alpha=1.0, learn="^head"),
        "tokens",
    ),
    "adapters with dropout": (
        lambda: adapt(small_encoder(), "query|value", rank=3, alpha=6.0, dropout=0.3),
        "tokens",
    ),
}


def world(name):
    """The task, and parameters and batches of three clients; B is not zero, texts are padded."""
    build, kind = MODELS[name]
    task = classification(name, build)
    params, batch = clients(task, (6,))
    draw = torch.Generator().manual_seed(1)
    for key, value in params.items():
        params[key] = value + 0.3 * torch.randn(value.shape, generator=draw, dtype=value.dtype)
    if kind == "tokens":
        tokens = torch.randint(1, WORDS, (3, 4, 5), generator=draw)
        tokens[:, 1, 3:] = 0
        tokens[0, 2] = 0  # padding alone
        batch = batch._replace(x=tokens)
    return task, params, batch


# --- the layer -----------------------------------------------------------------------------------


def test_before_anything_is_learned_the_model_gives_what_it_gave():
    torch.manual_seed(0)
    plain = mlp(6, 5, 3)
    x = torch.randn(4, 6)
    before = plain(x)
    assert torch.equal(adapt(plain, "1|3", rank=2, alpha=8.0)(x), before)


def test_an_adapted_layer_adds_s_b_a():
    layer = Adapted(nn.Linear(6, 4).double(), rank=2, alpha=6.0, dropout=0.0)
    nn.init.normal_(layer.lora_b.weight)
    x = torch.randn(5, 6, dtype=torch.float64)
    whole = layer.base.weight + 6.0 / 2 * layer.lora_b.weight @ layer.lora_a.weight
    torch.testing.assert_close(layer(x), x @ whole.T + layer.base.bias)


def test_a_starts_kaiming_uniform_as_in_peft_and_b_at_zero():
    layer = Adapted(nn.Linear(1024, 1024), rank=8, alpha=8.0, dropout=0.0)
    a, bound = layer.lora_a.weight.detach(), 1024**-0.5  # sqrt(6 / ((1 + 5) q))
    assert bound * 0.99 < float(a.abs().max()) <= bound * (1 + 1e-6)
    assert float(a.norm(dim=1).mean()) == pytest.approx(3**-0.5, rel=0.03)
    assert not layer.lora_b.weight.any()


def test_an_orthonormal_start_spans_the_rows_of_the_usual_one():
    starts = {}
    for orthonormal in (False, True):
        torch.manual_seed(0)
        net = adapt(mlp(6, 5, 3).double(), "1", rank=3, alpha=3.0, orthonormal=orthonormal)
        starts[orthonormal] = dict(net.named_parameters())[a_of("1")].detach()
    a = starts[True]
    torch.testing.assert_close(a @ a.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(starts[False] @ a.T @ a, starts[False])


def test_only_adapters_and_what_is_asked_for_are_learned():
    task = classification("encoder", MODELS["adapted encoder with a head"][0])
    paths = [f"blocks.{i}.{part}" for i in (0, 1) for part in ("query", "dense_1", "dense_2")]
    expected = {name(path) for path in paths for name in (a_of, b_of)}
    assert task.init(0).keys() == expected | {"head.weight", "head.bias"}
    assert sorted(adapters(task.init(0))) == sorted(paths)


def test_a_tree_falls_into_what_is_learned_and_the_as():
    params = classification("mlp", adapted_mlp).init(0) | {"head.weight": torch.zeros(1)}
    learned, fixed = halves(params)
    assert list(fixed) == [a_of("1")]
    assert set(learned) == {b_of("1"), "head.weight"}


def test_a_layer_that_is_used_twice_gets_one_adapter():
    shared = nn.Linear(4, 4)
    net = adapt(nn.Sequential(shared, nn.Tanh(), shared), "0|2", rank=2, alpha=2.0)
    assert net[0] is net[2]
    assert len([p for p in net.parameters() if p.requires_grad]) == 2


def test_a_second_call_adapts_other_layers_and_keeps_the_first():
    net = adapt(adapt(mlp(6, 5, 3), "1", rank=2, alpha=2.0), "3", rank=1, alpha=1.0)
    params = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert adapters(params) == ["1", "3"]


def test_the_features_of_an_adapted_head_are_what_it_sees():
    head = adapt(mlp(6, 5, 3).double(), "3", rank=2, alpha=2.0)
    task, x = classification("mlp", lambda: head), torch.randn(4, 6, dtype=torch.float64)
    assert task.features(task.init(0), x).shape == (4, 5)
    tape = []
    params = {name: value.unsqueeze(0) for name, value in task.init(0).items()}
    batch = Batch(x[None], torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4), torch.zeros(1))
    task.stacked_loss(params, batch, None, tape)
    assert {call.path for call in tape} >= {"3.lora_a", "3.lora_b"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pattern": "query"}, r"pattern must be found in the name of an nn.Linear; got 'query'"),
        ({"rank": 4}, "rank must be at most 3, the smaller side of 3; got 4"),
        ({"rank": 0}, "rank must be at least 1; got 0"),
        ({"alpha": 0.0}, "alpha must be > 0"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
)
def test_adapt_refuses(values, message):
    with pytest.raises(InputError, match=f"adapt: {message}"):
        adapt(mlp(6, 5, 3), **({"pattern": "1|3", "rank": 2, "alpha": 2.0} | values))


# --- stacked: the same numbers, from frozen weights that are not copied ---------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_clients_loss_and_gradient_are_those_of_its_own_network(name):
    task, params, batch = world(name)
    assert task.stacked_loss is not None
    losses = task.stacked_loss(params, batch)
    gradients = vmap(lambda p, own: PlainOracle(task).gradient(p, own))(params, batch)
    for i in range(len(batch.x)):
        own = Batch(*(part[i] for part in batch))
        point = {key: value.detach().requires_grad_() for key, value in row(params, i).items()}
        expected = task.loss(point, own)
        torch.testing.assert_close(losses[i], expected)
        mean = (expected * own.mask).sum() / own.mask.sum()
        wanted = torch.autograd.grad(mean, list(point.values()))
        for key, gradient in zip(point, wanted, strict=True):
            torch.testing.assert_close(gradients[key][i], gradient)


def test_a_point_that_all_clients_share_has_a_gradient_for_each():
    """It looks like a frozen weight, one tensor seen three times, but it is learned."""
    task, _, batch = world("adapted encoder")
    shared = task.init(7)
    stacked = vmap(lambda own: PlainOracle(task).gradient(shared, own))(batch)
    for i in range(len(batch.x)):
        alone = PlainOracle(task).gradient(shared, Batch(*(part[i] for part in batch)))
        for name, value in alone.items():
            torch.testing.assert_close(stacked[name][i], value)


@pytest.mark.parametrize("name", ["mlp", "adapted encoder"])
def test_frozen_weights_are_copied_for_no_client(name, monkeypatch):
    seen, plain = {}, layers.FORMS[nn.Linear]

    def watched(layer, context, values):
        seen[context.path] = context.weights["weight"]
        return plain(layer, context, values)

    monkeypatch.setitem(layers.FORMS, nn.Linear, watched)
    task, params, batch = world(name)
    learned, fixed = halves({key: value[0].clone() for key, value in params.items()})
    stacks = {key: params[key] for key in learned}
    vmap(lambda p, own: PlainOracle(task).gradient(p, own, held=fixed))(stacks, batch)
    bases = [weight for path, weight in seen.items() if "lora_b" not in path]
    assert len(bases) > len(fixed)
    for weight in bases:  # frozen ones, and the A's that are held
        assert weight.shape[0] == 3
        assert weight.untyped_storage().nbytes() == weight[0].numel() * weight.element_size()
    assert {key for key in task.init(0) if ".base." in key} == set()


def test_frozen_weights_are_those_of_the_build_whatever_the_seed():
    task = classification("mlp", adapted_mlp)
    x = torch.randn(4, 6, dtype=torch.float64)
    first, second = (task.predict(task.init(seed), x) for seed in (1, 2))
    assert torch.equal(first, second)  # B is zero: the base alone


def test_a_task_keeps_its_frozen_weights_on_its_way_to_a_worker():
    task = classification("mlp", adapted_mlp)
    params, x = task.init(1), torch.randn(4, 6, dtype=torch.float64)
    revived = cloudpickle.loads(cloudpickle.dumps(task))
    assert torch.equal(revived.predict(params, x), task.predict(params, x))


# --- clipped for each example: norms over what is learned alone -----------------------------------

CLIPPED = ["mlp", "adapted encoder"]


@pytest.mark.parametrize("name", [*CLIPPED, "adapted encoder with a head"])
def test_clipped_sums_are_those_of_one_example_at_a_time(name):
    task, params, batch = world(name)
    if batch.x.dtype == torch.int64:
        batch.x[0, 2] = 1  # of padding alone the gradient is zero, which this definition divides by
    _, norms = one_by_one(task, params, batch, clip_norm=0.7)
    clip_norm = float(norms.median())
    totals, _ = one_by_one(task, params, batch, clip_norm)
    found = clipped_sums(task, params, batch, clip_norm)
    torch.testing.assert_close(found.norms, norms)
    for i, total in enumerate(totals):
        for key, value in total.items():
            torch.testing.assert_close(found.total[key][i], value)


@pytest.mark.parametrize("name", CLIPPED)
@pytest.mark.parametrize("stacked_layers", [True, False])
def test_norms_are_only_over_what_is_learned(name, stacked_layers):
    from dataclasses import replace

    task, params, batch = world(name)
    task = task if stacked_layers else replace(task, stacked_loss=None)
    learned, fixed = halves(row(params, 0))
    stacks = {key: params[key] for key in learned}
    held = {key: params[key] for key in fixed}
    whole = clipped_sums(task, params, batch, 1e9)
    part = clipped_sums(task, stacks, batch, 1e9, held=held)
    assert part.total.keys() == learned.keys()
    assert (part.norms <= whole.norms).all()
    assert float((whole.norms - part.norms).max()) > 1e-3
    for key, value in part.total.items():
        torch.testing.assert_close(value, whole.total[key])
    tight = clipped_sums(task, stacks, batch._replace(mask=batch.mask * 0), 1e-3, held=held)
    assert all(not value.any() for value in tight.total.values())
    only = batch._replace(mask=torch.zeros_like(batch.mask))
    only.mask[:, 0] = 1
    total = clipped_sums(task, stacks, only, 1e-3, held=held).total
    length = torch.cat([value.flatten(1) for value in total.values()], dim=1).norm(dim=1)
    torch.testing.assert_close(length, torch.full((3,), 1e-3, dtype=length.dtype))


def test_an_adapted_encoder_needs_no_gradient_of_each_example_in_memory(monkeypatch):
    """Its learned layers all have rules of their own."""
    from fedsim.training import per_example

    monkeypatch.setattr(per_example, "_by_vmap", types.SimpleNamespace)
    task, params, batch = world("adapted encoder")
    clipped_sums(task, params, batch, 1.0)
