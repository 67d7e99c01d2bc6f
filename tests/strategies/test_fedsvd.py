"""FedSVD and FFA-LoRA (arXiv:2505.12805, 2403.12313) on small nets in float64."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsim.core import trees
from fedsim.core.batch import Batch
from fedsim.core.dataset import Examples, Source
from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.core.updates import Released
from fedsim.models.lora import a_of, adapt, adapters, b_of, halves
from fedsim.models.tasks import classification
from fedsim.models.vision import mlp
from fedsim.server.round import begin, finish_round, plan_round
from fedsim.server.setup import check_scenario, prepare
from fedsim.testing import direct
from privacy import none
from strategies import batch_plans, fedavg, fedsvd, ffa_lora
from strategies.aggregators import mean
from strategies.fedsvd import refactored
from strategies.step_rules import adam, clipped, sgd
from tests.helpers.worlds import blobs, clipped_sums, noised_by, private_oracle, small_world

# --- rounds --------------------------------------------------------------------------------------


def doubled() -> Source:
    """The blobs of the small world in float64."""
    plain = blobs((6, 5, 8, 12, 20, 3))

    def load(data_dir):
        dataset = plain.load(data_dir)
        train, test = (Examples(p.x.double(), p.y) for p in (dataset.train, dataset.test))
        return replace(dataset, train=train, test=test)

    return Source(name="doubled", load=load)


def task(orthonormal=False, learn=None):
    def build() -> nn.Module:
        net = nn.Sequential(*mlp(5, 8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        return adapt(
            net, "^(1|3)$", rank=3, alpha=6.0, orthonormal=orthonormal, learn=learn
        ).double()

    return classification("adapted", build)


def play(strategy, *, rounds=6, first=1, server=None, orthonormal=False, rule=None, **parts):
    """The server after some rounds, and the replies of the last."""
    scenario = small_world(
        data=doubled(),
        task=task(orthonormal),
        strategy=strategy,
        plan=batch_plans.random_batches(steps=4, batch_size=4),
        mechanism=none() if rule is None else replace(none(), example_rule=rule),
        cohort=3,
        sizes=(6, 5, 8, 12, 20, 3),
        **parts,
    )
    prepared = prepare(scenario, Settings(width=3, device="cpu"))
    held, exchange = begin(prepared), direct(prepared)
    if server is not None:
        held = held._replace(strategy=server)
    replies = []
    for round_num in range(first, first + rounds):
        work = plan_round(prepared, held, round_num, {}, exchange)
        replies = list(exchange(work))
        held = finish_round(prepared, held, work, replies).state
    return held.strategy, replies


def products(params):
    return {path: params[b_of(path)] @ params[a_of(path)] for path in adapters(params)}


def apart(first, second):
    """How far two models' products are from each other, relative to their size."""
    one, other = products(first), products(second)
    assert len(one) == 2
    return max(float((one[k] - other[k]).norm() / other[k].norm()) for k in one)


TURNED = {  # what does not see a rotation
    "sgd": {"steps": sgd(0.2)},
    "momentum": {"steps": sgd(0.2, momentum=0.9)},
    "clipped batches": {"steps": clipped(sgd(0.2), 0.1)},
    "clipped examples": {
        "steps": sgd(0.2),
        "rule": noised_by(clip_norm=0.2, noise_std=0.0),
    },
}


@pytest.mark.parametrize("case", TURNED)
def test_with_plain_sgd_it_learns_the_products_of_ffa_lora_from_an_a_with_orthonormal_rows(case):
    steps, parts = TURNED[case]["steps"], {"rule": TURNED[case].get("rule")}
    ours, _ = play(fedsvd(steps=steps), orthonormal=True, **parts)
    fixed, _ = play(ffa_lora(steps=steps), orthonormal=True, **parts)
    assert apart(ours.params, fixed.params) < 1e-12
    path = adapters(ours.params)[0]  # and yet A has been turned
    assert float((ours.params[a_of(path)] - fixed.params[a_of(path)]).norm()) > 0.1


def test_from_the_first_svd_on_it_learns_what_ffa_lora_learns_from_there():
    began, _ = play(fedsvd(steps=sgd(0.2)), rounds=1)
    ours, _ = play(fedsvd(steps=sgd(0.2)), first=2, server=began)
    plain = ffa_lora(steps=sgd(0.2))
    fixed, _ = play(plain, first=2, server=plain.init(began.params))
    assert apart(ours.params, fixed.params) < 1e-12
    never, _ = play(plain, rounds=7)  # the start of A alone makes the difference
    assert apart(never.params, fixed.params) > 0.1


def test_with_adam_it_learns_something_else():
    ours, _ = play(fedsvd(steps=adam(0.02)), orthonormal=True)
    fixed, _ = play(ffa_lora(steps=adam(0.02)), orthonormal=True)
    assert apart(ours.params, fixed.params) > 0.05


@pytest.mark.parametrize("steps", [sgd(0.2), adam(0.02)], ids=lambda rule: rule.name)
def test_with_period_none_it_equals_ffa_lora(steps):
    ours, _ = play(fedsvd(steps=steps, period=None))
    other, _ = play(ffa_lora(steps=steps))
    assert all(torch.equal(ours.params[k], other.params[k]) for k in other.params)


def test_an_svd_is_done_after_every_round_that_the_period_divides():
    started, _ = play(fedsvd(steps=sgd(0.2), period=3), rounds=2)
    path = adapters(started.params)[0]
    assert torch.equal(started.params[a_of(path)], task().init(1)[a_of(path)])
    third, _ = play(fedsvd(steps=sgd(0.2), period=3), rounds=3)
    a = third.params[a_of(path)]
    torch.testing.assert_close(a @ a.T, torch.eye(3, dtype=torch.float64))


def test_the_model_does_not_see_an_svd():
    server, _ = play(ffa_lora(steps=sgd(0.2)))
    x = doubled().load(None).test.x
    before, after = (
        task().predict(params, x) for params in (server.params, refactored(server.params))
    )
    torch.testing.assert_close(after, before)


def test_the_as_never_change_and_no_client_sends_one():
    server, replies = play(ffa_lora(steps=sgd(0.2)))
    start = task().init(1)
    sent = {name for reply in replies if reply.update for name in reply.update.diff}
    assert sent == {b_of(path) for path in adapters(start)}
    assert all(torch.equal(server.params[a_of(p)], start[a_of(p)]) for p in adapters(start))


def test_an_examples_gradient_is_clipped_over_the_bs_alone():
    net, draw = task(), torch.Generator().manual_seed(2)
    params = {
        name: value + 0.3 * torch.randn(value.shape, generator=draw, dtype=value.dtype)
        for name, value in net.init(1).items()
    }  # B is not zero
    x = torch.randn(4, 5, generator=draw, dtype=torch.float64)
    batch = Batch(x, torch.tensor([0, 1, 2, 0]), torch.ones(4), torch.tensor(7))
    strategy = ffa_lora(steps=sgd(1.0))
    model = strategy.broadcast(strategy.init(params), 1)
    local, oracle = strategy.local_init(model, None), private_oracle(net, 0.01, 0.0, 4.0)
    diff, _ = strategy.local_end(
        strategy.local_step(local, batch, oracle, model, None), model, None
    )
    stacked = [
        trees.map_leaves(part, lambda t: t.unsqueeze(0)) for part in (*halves(params), batch)
    ]
    found = clipped_sums(net, stacked[0], stacked[2], 0.01, held=stacked[1])
    assert (found.norms > 0.01).all()
    for name, value in diff.items():
        torch.testing.assert_close(value, -found.total[name][0] / 4, rtol=1e-6, atol=1e-9)


def mean_of_products(strategy):
    """After a round of all clients: the server's products, and the mean of the clients'."""
    before, _ = play(strategy, rounds=2, aggregator=mean("uniform"))
    after, replies = play(strategy, rounds=1, first=3, server=before, aggregator=mean("uniform"))
    diff = trees.select_rows(replies[-1].update.diff, slice(None))
    clients = {
        k: v + diff[k] if k in diff else v.expand(3, *v.shape) for k, v in before.params.items()
    }
    means = {
        path: (clients[b_of(path)] @ clients[a_of(path)]).mean(0)
        for path in adapters(before.params)
    }
    return products(after.params), means


def test_averaging_the_bs_averages_the_products_exactly():
    ours, means = mean_of_products(ffa_lora(steps=sgd(0.2)))
    for path, product in ours.items():
        torch.testing.assert_close(product, means[path], rtol=1e-12, atol=1e-12)


def test_averaging_both_halves_does_not_average_the_products():
    ours, means = mean_of_products(fedavg(steps=sgd(0.2)))
    for path, product in ours.items():
        assert float((product - means[path]).norm()) > 1e-3 * float(product.norm())


def test_what_else_is_learned_is_averaged_as_by_fedavg():
    learning = task(learn="^5")
    strategy = fedsvd(steps=sgd(0.2))
    server = strategy.init(learning.init(1))
    diff = {k: torch.ones_like(v) for k, v in server.params.items() if "lora_a" not in k}
    after = strategy.update(server, Released(diff, share=1.0)).params
    torch.testing.assert_close(after["5.bias"], server.params["5.bias"] + 1)


# --- 5.2: what is sent; refusals -----------------------------------------------------------------


def test_the_upload_is_half_of_fedavgs_on_square_layers():
    def up(strategy):
        square = classification(
            "square",
            lambda: adapt(nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 3)), "0", rank=2, alpha=2),
        )
        prepared = prepare(small_world(task=square, strategy=strategy), Settings(width=1))
        down = trees.num_bytes(prepared.broadcast_template)
        return trees.num_bytes(prepared.diff_template), down

    both, down = up(fedavg(steps=sgd(0.1)))
    assert up(ffa_lora(steps=sgd(0.1))) == up(fedsvd(steps=sgd(0.1))) == (both / 2, down)


def test_a_roberta_large_sends_393216_numbers_a_round():
    """Section 5.2: queries and values of 24 layers, 1,024 wide, rank 8."""
    layer = adapt(nn.Sequential(nn.Linear(1024, 1024, bias=False)), "0", rank=8, alpha=8)
    params = {name: p.detach() for name, p in layer.named_parameters() if p.requires_grad}
    strategy = fedsvd(steps=sgd(0.1))
    model = strategy.broadcast(strategy.init(params), 1)
    diff, _ = strategy.local_end(strategy.local_init(model, None), model, None)
    assert 24 * 2 * sum(part.numel() for part in diff.values()) == 393_216


@pytest.mark.parametrize("make", [fedsvd, ffa_lora])
def test_a_task_without_adapters_is_refused(make):
    name = make.__name__
    with pytest.raises(InputError, match=f"{name}: task must have adapters; got 'mlp'"):
        check_scenario(small_world(strategy=make(steps=sgd(0.1))), Settings())


def test_a_period_below_one_is_refused():
    with pytest.raises(InputError, match="fedsvd: period must be at least 1; got 0"):
        fedsvd(steps=sgd(0.1), period=0)
