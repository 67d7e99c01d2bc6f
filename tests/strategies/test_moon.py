"""MOON: the contrastive penalty (arXiv:2103.16257, Algorithm 1)."""

import math

import pytest
import torch

from fedsim.core import trees
from fedsim.core.batch import Batch, Penalty
from fedsim.core.errors import InputError
from fedsim.models.tasks import classification
from fedsim.models.vision import lenet, mlp
from fedsim.training.oracle import PlainOracle
from strategies import fedavg, moon
from strategies.step_rules import sgd
from tests.strategies.test_strategies import assert_same, run

TASK = classification("mlp", lambda: mlp(5, 8, 3))


def batch(size=4):
    x = torch.randn(size, 5, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.arange(size) % 3, torch.ones(size), torch.tensor(3))


class Watch:
    """An oracle that keeps the penalties it is given."""

    def __init__(self):
        self.inner, self.penalties, self.gradients = PlainOracle(TASK), [], []

    def gradient(self, params, batch, penalty=None, held=None):
        self.penalties.append(penalty)
        self.gradients.append(self.inner.gradient(params, batch, penalty))
        return self.gradients[-1]

    def features(self, params, batch):
        return self.inner.features(params, batch)


def step(client=None, mu=1.0, temperature=0.5):
    strategy = moon(steps=sgd(0.1), mu=mu, temperature=temperature)
    params = TASK.init(0)
    model = strategy.broadcast(strategy.init(params), 1)
    client = client or strategy.client_init(params)
    oracle = Watch()
    local = strategy.local_step(strategy.local_init(model, client), batch(), oracle, model, client)
    return strategy, oracle, local, model, client


def test_moon_with_mu_zero_equals_fedavg():
    _, ours = run(strategy=moon(steps=sgd(0.1), mu=0.0), rounds=4)
    _, average = run(strategy=fedavg(steps=sgd(0.1)), rounds=4)
    assert_same(ours, average, 1e-7)


def test_in_a_clients_first_round_the_contrastive_loss_is_log_2_and_moves_nothing():
    _, oracle, _, model, _ = step(mu=3.0)
    (penalty,) = oracle.penalties
    features = TASK.features(model.params, batch().x)
    values = penalty.of(type("O", (), {"features": features})(), batch().mask, *penalty.given)
    assert values.tolist() == pytest.approx([3 * math.log(2)] * 4)
    plain = PlainOracle(TASK).gradient(model.params, batch())
    assert_same(oracle.gradients[0], plain, 1e-6)


def test_later_the_gradient_is_that_of_the_contrastive_loss():
    """Written out with softmax over (sim to received, sim to last), as in the paper."""
    mu, temperature = 2.0, 0.7
    last = TASK.init(9)
    client = type(moon(steps=sgd(0.1)).client_init(last))(last, torch.ones(()))
    _, oracle, _, model, _ = step(client, mu, temperature)
    z_g, z_p = TASK.features(model.params, batch().x), TASK.features(last, batch().x)
    leaves = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    z = TASK.features(leaves, batch().x)
    sims = torch.stack(
        [(z * other).sum(1) / z.norm(dim=1) / other.norm(dim=1) for other in (z_g, z_p)], dim=1
    )
    contrast = -(sims / temperature).log_softmax(dim=1)[:, 0]
    loss = (TASK.loss(leaves, batch()) + mu * contrast).mean()
    expected = torch.autograd.grad(loss, list(leaves.values()))
    assert_same(oracle.gradients[0], dict(zip(leaves, expected, strict=True)), 1e-5)


def test_a_client_remembers_where_it_ended():
    strategy, _, local, model, client = step()
    diff, after = strategy.local_end(local, model, client)
    assert_same(after.last, trees.add(model.params, diff), 1e-6)
    assert float(after.seen) == 1.0


def test_the_features_are_what_the_last_dense_layer_sees():
    network = mlp(5, 8, 3)
    task = classification("mlp", lambda: network)
    params = {k: v.detach() for k, v in network.named_parameters()}
    last = [name for name in params if name.endswith("weight")][-1].removesuffix(".weight")
    x = batch().x
    weight, bias = params[f"{last}.weight"], params[f"{last}.bias"]
    torch.testing.assert_close(task.features(params, x) @ weight.T + bias, task.predict(params, x))


def test_features_of_a_convolutional_model_agree_alone_and_stacked():
    task = classification("lenet", lambda: lenet(10))
    params = task.init(0)
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    penalty = Penalty(lambda outputs, mask: outputs.features.sum(dim=1))
    shared = Batch(x, torch.zeros(3).long(), torch.ones(3), torch.tensor(0))
    extra = task.loss(params, shared, penalty) - task.loss(params, shared)
    torch.testing.assert_close(extra, task.features(params, x).sum(1), rtol=1e-4, atol=1e-4)
    stack = {name: value.unsqueeze(0) for name, value in params.items()}
    of_one = Batch(*(part.unsqueeze(0) for part in shared))
    stacked = task.stacked_loss(stack, of_one, penalty) - task.stacked_loss(stack, of_one)
    torch.testing.assert_close(stacked[0], extra, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("values", [{"mu": -1.0}, {"temperature": 0.0}])
def test_moon_refuses_values_out_of_range(values):
    with pytest.raises(InputError, match="moon: "):
        moon(steps=sgd(0.1), **values)
