"""The canary of single steps: it finds the noise that the ledger states, and not that of a bug."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.canaries.probe import _LENGTH, _canary, _linear, probe
from fedsim.core import trees
from fedsim.core.batch import Batch
from fedsim.core.errors import InputError
from fedsim.training.per_example import example_sums
from privacy import dp_sgd, none
from privacy.auditing import wiring
from privacy.auditing.noise import step_test
from privacy.mechanisms.clipping import Clip, per_layer
from tests.helpers.mechanisms import CLIENT, EXAMPLE, MECHANISMS
from tests.privacy.mechanisms.test_noise import (
    MATRIX,
    TIMES,
    claimed,
    module,
    on_the_update,
    rebuild_strategy,
)

ALPHA = 1e-4  # so that no honest mechanism fails, and a bug still does by far


def stated(name, z, mechanism):
    """The ledger's noise over the clip norm, where the canary moves a release by one of them."""
    entry, case = claimed(name, z), MECHANISMS[name]
    return entry.noise_std * case.clip * on_the_update(name, z) / mechanism.norm(())


def wired(name, z=1.0, mechanism=None, **more):
    """What the canary finds of a mechanism, and whether it is what its ledger says."""
    mechanism = mechanism or MECHANISMS[name].make(z)
    multiplier = stated(name, z, MECHANISMS[name].make(z))
    if name not in MATRIX:
        found = probe(mechanism, 1, **more)
        seen = (found.inside[:, 0], found.outside[:, 0])
        return wiring(*seen, noise_multiplier=multiplier, alpha=ALPHA)
    matrix = rebuild_strategy(name).numpy()
    found = probe(mechanism, 1, steps=TIMES, **more)
    seen = (step_test.in_time(matrix, half, [0]) for half in (found.inside, found.outside))
    reached = step_test.shift(matrix, [0]).value
    return wiring(*seen, noise_multiplier=multiplier / reached, alpha=ALPHA)


@pytest.mark.parametrize("name", EXAMPLE)
@pytest.mark.parametrize("z", [0.6, 2.0])
def test_the_canary_finds_the_noise_that_the_ledger_states(name, z):
    found = wired(name, z)
    assert found.passed
    assert found.mu == pytest.approx(1 / found.claimed, abs=4 * found.standard_error)


def test_where_no_examples_are_protected_there_is_nothing_to_ask():
    assert all(probe(MECHANISMS[name].make(1.0), 1) is None for name in CLIENT)
    assert probe(none(), 1) is None
    forgetful = replace(dp_sgd(noise_multiplier=1.0), norm=lambda state: float("inf"))
    assert probe(forgetful, 1) is None


@pytest.mark.parametrize("clip_norm", [0.01, 1.0, 300.0])
def test_observations_are_in_clip_norms_whatever_the_clip_norm(clip_norm):
    found = probe(dp_sgd(noise_multiplier=1e-3, clip=clip_norm), 1, trials=40)
    torch.testing.assert_close(found.inside, torch.ones_like(found.inside), rtol=0, atol=5e-3)
    torch.testing.assert_close(found.outside, torch.zeros_like(found.inside), rtol=0, atol=5e-3)
    assert found.inside.shape == (20, 1)


def test_the_canary_is_seen_in_the_first_step_alone():
    """With feedback a part of what was cut off comes back in the steps after it."""
    found = probe(dp_sgd(noise_multiplier=1e-4), 1, trials=40, steps=3)
    torch.testing.assert_close(
        found.inside.mean(dim=0), torch.tensor([1.0, 0.0, 0.0]).double(), rtol=0, atol=1e-3
    )
    fed_back = probe(MECHANISMS["error_feedback"].make(1e-4), 1, trials=40, steps=3)
    torch.testing.assert_close(  # of 10 C, C now; then C2 = C of the mean, which is 4 C of the sum
        fed_back.inside.mean(dim=0), torch.tensor([1.0, 4.0, 4.0]).double(), rtol=0, atol=1e-3
    )


def test_the_canarys_gradient_is_ten_clip_norms_along_all_tensors():
    task = _linear(_LENGTH)
    x, y = torch.full((2, 1, 7), 7**-0.5), torch.zeros(2, 1, dtype=torch.int64)
    batch = Batch(x, y, torch.tensor([[1.0], [0.0]]), torch.zeros(2, dtype=torch.int64))
    point = {name: torch.randn(2, *tensor.shape) for name, tensor in task.init(1).items()}

    def whole(squares):
        return {path: torch.ones_like(square) for path, square in squares.items()}

    for made in (task, replace(task, stacked_loss=None)):
        (total,) = example_sums(made, point, batch, whole).totals
        for name, part in _canary().items():
            torch.testing.assert_close(total[name][0], 10 * part)
            assert float(part.norm()) == pytest.approx(0.5)  # a quarter of the energy
            assert not total[name][1].any()


def test_the_same_seed_gives_the_same_trials_and_leaves_other_randomness_alone():
    mechanism = dp_sgd(noise_multiplier=1.0)
    before = torch.random.get_rng_state()
    first, again, other = (probe(mechanism, seed, trials=10) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.inside, again.inside)
    assert bool((first.inside != other.inside).all())
    everything = torch.cat([first.inside, first.outside, other.inside, other.outside])
    assert len(everything.unique()) == 20


def test_many_trials_are_done_in_portions_and_are_the_same(monkeypatch):
    mechanism = MECHANISMS["nu_ftrl steps"].make(1.0)
    whole = probe(mechanism, 1, trials=50, steps=2)
    monkeypatch.setattr("fedsim.canaries.probe._AT_ONCE", 7)
    portions = probe(mechanism, 1, trials=50, steps=2)
    torch.testing.assert_close(portions.inside, whole.inside, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(portions.outside, whole.outside, rtol=1e-5, atol=1e-5)


def test_fewer_than_four_trials_are_refused():
    with pytest.raises(InputError, match="probe: trials must be at least 4; got 3"):
        probe(dp_sgd(noise_multiplier=1.0), 1, trials=3)
    with pytest.raises(InputError, match="probe: steps must be at least 1; got 0"):
        probe(dp_sgd(noise_multiplier=1.0), 1, steps=0)


# --- planted bugs --------------------------------------------------------------------------------


def answering(mechanism, change):
    """The mechanism, with its answers (question, answer) changed."""
    rule = mechanism.example_rule

    def answer(question):
        gradient, losses, memory = rule.answer(question)
        return change(question, gradient), losses, memory

    return replace(mechanism, example_rule=replace(rule, answer=answer))


def silent_where_empty(question, gradient):
    """An implementation that returns early where nobody was drawn."""
    there = question.asked.batch.mask.sum(dim=1) > 0
    return trees.map_leaves(gradient, lambda t: t * there.reshape(-1, *(1,) * (t.dim() - 1)))


@pytest.mark.parametrize("name", EXAMPLE)
def test_half_the_noise_leaks(name, monkeypatch):
    per_example, correlated = module("example_level"), module("correlated_dp_sgd")
    drawn, normals = per_example.drawn, correlated.normals
    monkeypatch.setattr(per_example, "drawn", lambda *given: trees.scale(drawn(*given), 0.5))
    monkeypatch.setattr(correlated, "normals", lambda *given: 0.5 * normals(*given))
    found = wired(name)
    assert found.leaks
    assert found.mu * found.claimed == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("name", ["dp_sgd", "batch_clipping", "error_feedback", "dp_sgd quantile"])
def test_noise_that_is_left_out_where_nobody_was_drawn_leaks(name):
    """Half of the trials are without noise, so the pooled variance is half."""
    found = wired(name, mechanism=answering(MECHANISMS[name].make(1.0), silent_where_empty))
    assert found.leaks
    assert found.mu * found.claimed == pytest.approx(2**0.5, rel=0.1)


def scaled_by(factor):
    def rule(squares):
        return {path: torch.full_like(square, factor) for path, square in squares.items()}

    return rule


@pytest.mark.parametrize(
    ("clip", "times"),
    [
        (Clip(name="none", bound=1.0, factors=scaled_by(1.0)), 10),
        (Clip(name="twice", bound=1.0, factors=scaled_by(0.2)), 2),
        # both layers to C each, and not to C / sqrt 2
        (replace(per_layer(2**0.5), bound=1.0), 2**0.5),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_clip_that_lets_more_through_than_it_says_leaks(clip, times):
    found = wired("dp_sgd", mechanism=dp_sgd(noise_multiplier=1.0, clip=clip))
    assert found.leaks
    assert found.mu == pytest.approx(times, rel=0.1)


@pytest.mark.parametrize(
    ("tensors", "lost"),
    [(["first.weight"], 1 / 4), (["second.bias"], 1 / 4), (["first.bias", "second.bias"], 1 / 2)],
    ids=["a weight", "a bias", "all biases"],
)
def test_a_tensor_without_noise_leaks_by_its_part_of_the_direction(tensors, lost, monkeypatch):
    """Without noise it hides nothing at all, of which one direction shows a part; but it shows."""
    per_example = module("example_level")
    drawn = per_example.drawn

    def forgetful(keys, like):
        noise = drawn(keys, like)
        return noise | {name: 0 * noise[name] for name in tensors}

    monkeypatch.setattr(per_example, "drawn", forgetful)
    found = wired("dp_sgd")
    assert found.leaks
    assert found.mu == pytest.approx((1 - lost) ** -0.5, rel=0.06)


def test_one_noise_for_all_numbers_of_a_step_is_seen(monkeypatch):
    """Along a direction of one sign it adds up, to the sum of its entries times as much."""
    per_example = module("example_level")
    drawn = per_example.drawn

    def common(keys, like):
        first = drawn(keys, like)["second.bias"][:, 0]
        return {name: per_example.column(first, t).expand_as(t) for name, t in like.items()}

    monkeypatch.setattr(per_example, "drawn", common)
    found = wired("dp_sgd")
    added_up = float(trees.flatten(_canary()).sum())
    assert not found.passed
    assert found.noise_multiplier == pytest.approx(added_up, rel=0.2)


@pytest.mark.parametrize(("on_sum", "on_noise"), [(1, 4), (4, 1)])
def test_a_mean_that_gets_a_sums_noise_or_the_other_way_round_is_seen(
    on_sum, on_noise, monkeypatch
):
    """The probe's batches have four examples on average: the factor that one of them is off by."""
    noised = module("example_level").noised

    def confused(total, noise, std, divisor):
        return noised(trees.scale(total, on_sum), trees.scale(noise, on_noise), std, divisor)

    monkeypatch.setattr(module("example_level"), "noised", confused)
    found = wired("dp_sgd")
    assert not found.passed
    assert found.leaks == (on_sum > on_noise)
    assert found.mu == pytest.approx(on_sum / on_noise, rel=0.15)


def test_a_divisor_that_counts_who_is_there_shows_in_the_scale_and_not_in_the_noise(monkeypatch):
    """One canary over one, or nobody over one: as noisy as it should be, and four times as large.

    What such a divisor gives away is how many are there, which one direction does not show.
    """
    noised = module("example_level").noised
    monkeypatch.setattr(
        module("example_level"),
        "noised",
        lambda total, noise, std, divisor: noised(total, noise, std, torch.ones_like(divisor)),
    )
    assert wired("dp_sgd").passed
    found = probe(dp_sgd(noise_multiplier=1.0), 1)
    assert float((found.inside - found.outside).mean()) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("name", [name for name in EXAMPLE if name in MATRIX])
def test_correlated_noise_that_forgets_what_it_added_is_seen(name):
    """Its noise is independent: seen through M it is larger than what M makes independent."""
    honest = MECHANISMS[name].make(1.0)
    rule = honest.example_rule

    def answer(question):
        gradient, losses, _ = rule.answer(question)
        return gradient, losses, question.memory

    found = wired(name, mechanism=replace(honest, example_rule=replace(rule, answer=answer)))
    matrix = rebuild_strategy(name).numpy()
    along = matrix[:, 0] / np.linalg.norm(matrix[:, 0])
    assert not found.passed
    more = np.linalg.norm(matrix.T @ along)
    assert found.mu * found.claimed == pytest.approx(1 / more, rel=0.1)
