"""FedLD: margin control and principal directions (arXiv:2408.12300)."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw

from fedsim.core.batch import Batch
from fedsim.core.errors import InputError, PrivacyError
from fedsim.core.sampling import Everyone
from fedsim.core.updates import Bounded
from fedsim.models.tasks import classification
from fedsim.models.vision import mlp
from fedsim.training.oracle import PlainOracle
from strategies import fedavg, fedld
from strategies.aggregators import principal_directions
from strategies.step_rules import sgd
from tests.helpers.worlds import private_oracle
from tests.strategies.test_strategies import assert_same, run


def combined(stack, kappa=0.8, parts=1):
    """What the aggregator gives for the rows of a tensor, fed in some portions."""
    rule, like = principal_directions(kappa), {"w": torch.zeros_like(stack[0])}
    state = rule.init(like)
    for portion in stack.chunk(parts):
        own = portion.clone()
        state = rule.add(state, Bounded({"w": own}, torch.ones(len(own)), math.inf))
        own.fill_(math.nan)  # the next chunk may come in the same memory
    return rule.finish(state, Everyone(torch.ones(len(stack)), 1.0)).diff["w"]


def by_the_box(g, kappa=0.8):
    """Lines 3 to 6 as they are written, with loops over clients and directions."""
    s = len(g)
    q, e = torch.linalg.eigh(g @ g.T)
    order = q.argsort(descending=True)
    q, e = q[order], e[:, order]
    total = torch.zeros_like(g[0])
    for i in range(s):
        for j in range(max(1, math.floor(kappa * s))):
            direction = g.T @ e[:, j] / q[j].sqrt()
            sign = torch.sign(g[i] @ direction)
            total += q[j] / q.sum() * g[i].norm() * sign * direction / s
    return total


def random_updates(seed, s=5, d=12):
    return torch.randn(s, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(draw.integers(0, 10_000), draw.integers(2, 7))
@settings(deadline=None, max_examples=40)
def test_it_agrees_with_the_loop_over_clients_and_directions(seed, s):
    g = random_updates(seed, s=s)
    torch.testing.assert_close(combined(g), by_the_box(g), rtol=1e-9, atol=1e-11)


def test_updates_that_come_in_portions_give_the_same():
    g = random_updates(3)
    torch.testing.assert_close(combined(g, parts=3), combined(g))


def test_identical_updates_give_that_update():
    u = random_updates(1, s=1)
    torch.testing.assert_close(combined(u.repeat(4, 1)), u[0])


def test_two_opposite_updates_give_zero():
    u = random_updates(1, s=1)
    assert float(combined(torch.cat([u, -u])).norm()) < 1e-12


def test_one_update_gives_itself():
    u = random_updates(1, s=1)
    torch.testing.assert_close(combined(u), u[0])


def test_the_order_of_the_clients_does_not_matter():
    g = random_updates(2, s=4)
    expected = combined(g)
    for order in permutations(range(4)):
        torch.testing.assert_close(combined(g[list(order)]), expected)


def test_it_turns_with_an_orthogonal_map_and_grows_with_a_factor():
    g = random_updates(4)
    turn, _ = torch.linalg.qr(random_updates(9, s=12))
    torch.testing.assert_close(combined(g @ turn), combined(g) @ turn)
    torch.testing.assert_close(combined(7 * g), 7 * combined(g))


def test_the_step_is_never_longer_than_the_mean_length():
    """Each r_i has the length ||g_i|| sqrt(sum_{j <= k} w_j^2), which is at most ||g_i||."""
    g = random_updates(5)
    q = torch.linalg.eigvalsh(g @ g.T).flip(0)
    ratio = (q / q.sum())[:4].square().sum().sqrt()
    assert combined(g).norm() <= ratio * g.norm(dim=1).mean() + 1e-12


def test_a_tensor_that_did_not_move_stays():
    assert combined(torch.zeros(3, 4)).tolist() == [0.0] * 4


def test_a_tensor_of_one_element_is_averaged():
    torch.testing.assert_close(combined(torch.tensor([[1.0], [2.0], [6.0]])), torch.tensor([3.0]))


def test_a_client_that_did_not_move_counts_as_zero():
    g = random_updates(6)
    g[2] = 0
    torch.testing.assert_close(combined(g), by_the_box_without(g, 2))


def by_the_box_without(g, silent):
    """The vote of the others, over a cohort that has the silent client in it."""
    others = torch.cat([g[:silent], g[silent + 1 :]])
    s = len(g)
    q, e = torch.linalg.eigh(others @ others.T)
    q, e = q.flip(0), e.flip(1)
    total = torch.zeros_like(g[0])
    for row in others:
        for j in range(min(len(others), max(1, math.floor(0.8 * s)))):
            direction = others.T @ e[:, j] / q[j].sqrt()
            total += q[j] / q.sum() * row.norm() * torch.sign(row @ direction) * direction / s
    return total


@pytest.mark.parametrize("kappa", [0.0, 1.2, -1.0])
def test_kappa_is_a_part_of_the_directions(kappa):
    with pytest.raises(InputError, match="principal_directions: kappa must be in"):
        principal_directions(kappa)


# --- margin control ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["example", "batch"])
def test_fedld_with_mu_zero_equals_fedavg(form):
    _, ours = run(strategy=fedld(steps=sgd(0.1), mu=0.0, form=form))
    _, average = run(strategy=fedavg(steps=sgd(0.1)))
    assert_same(ours, average, 1e-7)


def penalty_of(form, mu=1.0):
    """The penalty that the strategy hands to its oracle."""
    strategy, found = fedld(steps=sgd(0.1), mu=mu, form=form), []

    class Ask:
        def gradient(self, params, batch, penalty=None, held=None):
            found.append(penalty)
            return params

    params = {"w": torch.zeros(1)}
    model = strategy.broadcast(strategy.init(params), 1)
    local = strategy.local_init(model, strategy.client_init(params))
    strategy.local_step(local, None, Ask(), model, None)
    (penalty,) = found
    return penalty


def penalised(form, logits, mask=None):
    from fedsim.core.batch import Outputs

    mask = torch.ones(len(logits)) if mask is None else mask
    return penalty_of(form).of(Outputs(logits, logits), mask)


def test_at_uniform_logits_the_batch_penalty_is_log_one_plus_b_over_c_and_moves_nothing():
    logits = torch.zeros(6, 4, requires_grad=True)
    values = penalised("batch", logits)
    assert values.tolist() == pytest.approx([math.log(1 + 6 / 4)] * 6)
    (gradient,) = torch.autograd.grad(values.mean(), logits)
    assert float(gradient.norm()) < 1e-6


def test_at_uniform_logits_the_penalty_moves_nothing():
    logits = torch.zeros(6, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(penalised("example", logits).mean(), logits)
    assert float(gradient.norm()) < 1e-6


def test_saturated_logits_cost_log_one_plus_b():
    logits = 1e4 * torch.eye(4)[[0, 1, 1]]
    assert penalised("batch", logits).tolist() == pytest.approx([math.log(1 + 3)] * 3)
    assert penalised("example", logits).tolist() == pytest.approx([math.log(2)] * 3)


def test_padded_rows_do_not_count_in_the_batch_penalty():
    logits = torch.zeros(6, 4)
    mask = torch.tensor([1.0, 1, 1, 0, 0, 0])
    assert float(penalised("batch", logits, mask)[0]) == pytest.approx(math.log(1 + 3 / 4))


def batch_of(task):
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, generator=draws)
    return Batch(x, torch.tensor([0, 1, 2, 0]), torch.ones(4), torch.tensor(3))


@pytest.mark.parametrize("form", ["example", "batch"])
def test_the_gradient_is_that_of_the_penalised_loss(form):
    task, mu = classification("mlp", lambda: mlp(5, 8, 3)), 0.7
    params, batch = task.init(0), batch_of(None)
    got = PlainOracle(task).gradient(params, batch, penalty_of(form, mu))
    leaves = {k: v.clone().requires_grad_() for k, v in params.items()}
    confidence = task.predict(leaves, batch.x).softmax(dim=1).square().sum(dim=1)
    extra = torch.log1p(confidence).mean() if form == "example" else torch.log1p(confidence.sum())
    whole = task.loss(leaves, batch).mean() + mu * extra
    expected = torch.autograd.grad(whole, list(leaves.values()))
    assert_same(got, dict(zip(leaves, expected, strict=True)), 1e-6)


def test_the_penalty_of_an_example_is_clipped_with_it():
    """With one example a batch, its clipped gradient is its penalised one, cut to the norm."""
    from dataclasses import replace

    from fedsim.core import trees

    task = classification("mlp", lambda: mlp(5, 8, 3))
    params, batch = task.init(0), batch_of(None)
    one = Batch(batch.x[:1], batch.y[:1], batch.mask[:1], batch.key)
    penalty = penalty_of("example", 5.0)
    plain = PlainOracle(task).gradient(params, one, penalty)
    norm = float(trees.norm(plain))
    for way in (task, replace(task, stacked_loss=None)):
        oracle = private_oracle(way, norm / 2, 0.0, 1.0)
        assert_same(oracle.gradient(params, one, penalty), trees.scale(plain, 0.5), 1e-6)


def test_a_penalty_of_the_whole_batch_is_refused_where_examples_are_clipped():
    task = classification("mlp", lambda: mlp(5, 8, 3))
    oracle = private_oracle(task, 1.0, 0.0, 1.0)
    with pytest.raises(PrivacyError, match="penalty must be separable"):
        oracle.gradient(task.init(0), batch_of(None), penalty_of("batch"))


def test_it_learns_with_both_halves():
    world, after = run(
        rounds=6, strategy=fedld(steps=sgd(0.1)), aggregator=principal_directions(), cohort=6
    )
    test = world.dealt.dataset.test
    task = world.scenario.task

    def hits(params):
        return float((task.predict(params, test.x).argmax(1) == test.y).float().mean())

    assert hits(after) > hits(world.initial_params) + 0.1
