"""Canaries: who they are, that they are asked and bounded as all are, and what is seen of them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.canaries.examples import _dots, _Gradients
from fedsim.canaries.plan import record
from fedsim.core.batch import Batch
from fedsim.core.dataset import Examples
from fedsim.core.errors import InputError, PrivacyError
from fedsim.core.jsonl import read_lines
from fedsim.core.ledger import read_ledger
from fedsim.core.settings import Settings
from fedsim.models.tasks import classification
from fedsim.models.vision import mlp
from fedsim.runs.description import describe
from fedsim.runs.folder import read_metrics
from fedsim.runs.runner import record_run
from fedsim.server.setup import check_scenario, prepare
from fedsim.testing import direct
from privacy import client_dp, correlated_noise, dp_sgd, local_dp, none
from privacy.mechanisms.clipping import automatic, per_layer, quantile
from strategies import batch_plans, client_selection
from strategies.aggregators import mean, public_mean
from tests.helpers.mechanisms import BANDED, NU, Stopped, opened, run_into
from tests.helpers.worlds import small_world

QUIET = 1e-4


def clients(z=QUIET, *, canaries=8, clip=1.0, **changes):
    """Six clients, each in a round with chance 1/2, and canaries."""
    given = {
        "cohort": 3,
        "rounds": 6,
        "selection": client_selection.poisson(),
        "aggregator": public_mean(),
        "mechanism": client_dp(noise_multiplier=z, clip=clip),
        "canaries": canaries,
    }
    return small_world(**(given | changes))


def examples(z=1.0, *, canaries=8, **changes):
    given = {
        "plan": batch_plans.poisson_batches(steps=2, sampling_prob=0.5),
        "rounds": 6,
        "mechanism": dp_sgd(noise_multiplier=z),
        "canaries": canaries,
    }
    return small_world(**(given | changes))


def ran(scenario, out, **more):
    """What a run saw of its canaries: coins [m], asked [T, m], seen [T, m]."""
    run_into(out, scenario, **more)
    coins, rows = opened(scenario).canaries.included.numpy(), read_lines(out / "canaries.jsonl")
    asked = np.zeros((len(rows), len(coins)), dtype=bool)
    for row, there in zip(asked, rows, strict=True):
        row[there["asked"]] = True
    return coins, asked, np.array([row["seen"] for row in rows], dtype=float)


# --- clients -------------------------------------------------------------------------------------


def overlaps(scenario, seed=1):
    """Cosines between canaries' directions."""
    directions = opened(scenario, seed).canaries.directions
    return (directions @ directions.T).numpy()


@pytest.mark.parametrize(
    "clip",
    [1.0, per_layer(0.7), automatic(), quantile(0.5, count_noise=2.0)],
    ids=["flat", "per layer", "automatic", "quantile"],
)
def test_a_canary_client_shows_one_clip_norm_where_it_sent_and_nothing_where_not(tmp_path, clip):
    scenario = clients(clip=clip)
    coins, asked, seen = ran(scenario, tmp_path / "run")
    sent = (asked & coins).astype(float)
    expected = sent @ overlaps(scenario)
    assert len({*zip(asked.flatten(), np.tile(coins, len(asked)), strict=True)}) == 4
    np.testing.assert_allclose(seen, expected, atol=2e-3)  # automatic clipping is 1/1000 short
    others = [row["overlaps"] for row in read_lines(tmp_path / "run" / "canaries.jsonl")]
    np.testing.assert_allclose(others, expected - sent, atol=2e-3)


def test_what_is_seen_has_the_noise_of_the_ledger(tmp_path):
    scenario = clients(z=3.0, canaries=400, rounds=20, cohort=1)
    coins, asked, seen = ran(scenario, tmp_path / "run")
    noise = seen - (asked & coins).astype(float) @ overlaps(scenario)
    _, dims = opened(scenario).canaries.directions.shape  # less than canaries: what is free
    assert np.sqrt((noise**2).mean()) == pytest.approx(3.0, rel=4 / math.sqrt(2 * dims * 20))


def test_each_canary_is_asked_with_the_chance_of_a_client(tmp_path):
    _, asked, _ = ran(clients(canaries=2000, rounds=3), tmp_path / "run")
    assert asked.mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(asked.size))


@pytest.mark.parametrize(
    ("chosen", "groups"), [(client_selection.cyclic(), 2), (client_selection.poisson_groups(2), 2)]
)
def test_canaries_take_turns_where_clients_do(tmp_path, chosen, groups):
    made = correlated_noise(BANDED, noise_multiplier=QUIET)
    scenario = clients(selection=chosen, mechanism=made, population=6, cohort=3)
    if chosen.sampling.groups:
        scenario = replace(scenario, mechanism=client_dp(noise_multiplier=QUIET))
    _, asked, _ = ran(scenario, tmp_path / "run")
    for t, row in enumerate(asked):
        turn = np.arange(len(row)) % groups == t % groups
        assert (row == turn).all()  # two groups of six at three a round: everybody in its turn


def test_under_local_privacy_each_canary_shows_its_own_update_or_the_opposite(tmp_path):
    scenario = clients(
        mechanism=local_dp(noise_multiplier=QUIET),
        selection=client_selection.uniform(),
        aggregator=mean("uniform"),
    )
    coins, asked, seen = ran(scenario, tmp_path / "run")
    assert (np.isnan(seen) == ~asked).all()
    expected = np.where(coins, 1.0, -1.0)[np.nonzero(asked)[1]]
    np.testing.assert_allclose(seen[asked], expected, atol=1e-3)


def test_under_local_privacy_canaries_are_in_no_sum(tmp_path):
    made = local_dp(noise_multiplier=1.0)
    for name, count in (("none", 0), ("many", 50)):
        scenario = clients(
            mechanism=made, aggregator=mean("uniform"), canaries=count, cohort=1, rounds=8
        )
        run_into(tmp_path / name, scenario)  # with rounds in which no canary is asked
    losses = [[row["test_loss"] for row in read_metrics(tmp_path / n)] for n in ("none", "many")]
    assert losses[0] == losses[1]
    few = clients(mechanism=made, aggregator=mean("uniform"), canaries=1, cohort=1, rounds=8)
    _, asked, _ = ran(few, tmp_path / "few")
    assert not asked.any(axis=1).all()


def test_canaries_change_neither_the_ledger_nor_who_is_asked(tmp_path):
    plain, audited = clients(z=1.0, canaries=0), clients(z=1.0)
    for name, scenario in (("plain", plain), ("audited", audited)):
        run_into(tmp_path / name, scenario)
    entries = [read_ledger(tmp_path / name / "ledger.jsonl") for name in ("plain", "audited")]
    assert entries[0] == entries[1]
    cohorts = [
        [row["cohort"] for row in read_metrics(tmp_path / name)] for name in ("plain", "audited")
    ]
    assert cohorts[0] == cohorts[1]
    assert not (tmp_path / "plain" / "canaries.jsonl").exists()


def test_a_clip_norm_that_follows_a_quantile_follows_that_of_clients(tmp_path):
    clip = quantile(0.5, count_noise=50.0)

    def norm(canaries):
        run_into(tmp_path / str(canaries), clients(z=1e-2, clip=clip, canaries=canaries, rounds=1))
        return torch.load(tmp_path / str(canaries) / "checkpoint" / "state.pt")["server"][-1]

    assert torch.equal(norm(0), norm(50))


def test_directions_are_uniform_unit_vectors_and_their_own_for_each_seed():
    first, other = (opened(clients(canaries=500), seed).canaries for seed in (1, 2))
    d = first.directions.shape[1]
    torch.testing.assert_close(first.directions.norm(dim=1), torch.ones(500))
    off = first.directions.mean(dim=0) * math.sqrt(500 * d)  # N(0, 1) each
    assert float(off.square().sum()) == pytest.approx(d, abs=5 * math.sqrt(2 * d))
    assert not torch.allclose(first.directions, other.directions)
    assert not torch.equal(first.included, other.included)


def test_turned_directions_are_of_as_many_dimensions_as_they_meet_in():
    flat, turned = (opened(clients(canaries=50, clip=c)).canaries for c in (1.0, per_layer(1.0)))
    assert flat.dims == flat.directions.shape[1] == 75
    meeting = (turned.directions @ turned.directions.T).square()
    mean = (meeting.sum() - 50) / (50 * 49)
    assert turned.dims == math.floor(1 / float(mean))
    assert turned.dims < 75


def test_only_directions_that_clipping_leaves_alone_are_compared_with_the_models_way():
    for clip, there in ((1.0, True), (per_layer(1.0), False)):
        prepared = opened(clients(clip=clip))
        start = prepared.initial_params
        end = {name: tensor + 1 for name, tensor in start.items()}
        assert (prepared.canaries.cosines(start, end) is not None) == there
        assert prepared.canaries.cosines(start, start) is None  # it did not move


def test_too_many_directions_for_memory_are_refused():
    with pytest.raises(InputError, match=r"canaries must be at most \d+ for updates of 75 numbers"):
        opened(clients(canaries=8 * 10**6))


# --- examples ------------------------------------------------------------------------------------


def test_canary_examples_are_random_dots_dealt_in_turn():
    prepared = opened(examples(canaries=600))
    before, after = prepared.dealt, prepared.trained_on
    assert (after.owned.counts() - before.owned.counts()).tolist() == [100] * 6
    n, x = len(before.dataset.train.y), after.dataset.train.x
    assert torch.equal(x[:n], before.dataset.train.x)
    low, high = before.dataset.train.x.min(), before.dataset.train.x.max()
    dots = x[n:] == high
    assert bool((dots | (x[n:] == low)).all())
    assert float(dots.float().mean()) == pytest.approx(1 / 16, abs=4 * 0.25 / math.sqrt(600 * 5))
    assert after.dataset.train.y[n:].unique().tolist() == [0, 1, 2]
    gone = after.owned.rows[after.absent]
    out = (~prepared.canaries.included).nonzero().flatten()
    assert torch.equal(gone.sort().values, n + out)


def test_canaries_of_words_are_words_of_the_data():
    words = torch.tensor([[3, 5], [7, 9]])
    made = _dots(words, torch.rand(50, 2, generator=torch.Generator().manual_seed(0)))
    assert made.dtype == words.dtype
    assert made.unique().tolist() == [3, 5, 7, 9]


def test_everybodys_own_examples_stay_and_are_there():
    prepared = opened(examples(canaries=9))
    before, after = prepared.dealt, prepared.trained_on
    n = len(before.dataset.train.y)
    for client in range(6):
        span = slice(*after.owned.starts[client : client + 2].tolist())
        own = after.owned.rows[span]
        assert torch.equal(own[own < n], before.owned.of(client))
        assert not after.absent[span][own < n].any()


def gradient(task, params, x, y):
    """Of one example's loss, as a vector."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    batch = Batch(x.unsqueeze(0), y.reshape(1), torch.ones(1), torch.tensor(0))
    grads = torch.autograd.grad(task.loss(leaves, batch).sum(), list(leaves.values()))
    return torch.cat([grad.flatten() for grad in grads])


def test_what_is_seen_of_a_canary_is_how_far_its_client_went_against_its_gradient(tmp_path):
    # A client has one example and one canary, whose gradients a and b are clipped to C both. It
    # goes along -(a + b) with the canary and along -a without. What all have along a is taken out:
    # all that is left of the former is along what is left of b, and of the latter nothing.
    scenario = examples(
        canaries=20,
        sizes=(1,) * 20,
        cohort=20,
        rounds=1,
        mechanism=dp_sgd(noise_multiplier=1e-4, clip=1e-3),
        plan=batch_plans.poisson_batches(steps=1, sampling_prob=1.0),
    )
    coins, _, seen = ran(scenario, tmp_path / "run")
    np.testing.assert_allclose(seen[0, coins], 1, atol=5e-3)
    assert np.abs(seen[0, ~coins]).max() < 0.7  # noise


def test_what_a_client_has_of_each_class_is_taken_out_by_its_mean_gradient(tmp_path):
    # Twelve examples and a canary, without noise to speak of: only the canary's
    # own gradient is left where it is in.
    scenario = examples(
        canaries=10,
        sizes=(12,) * 10,
        cohort=10,
        rounds=1,
        mechanism=dp_sgd(noise_multiplier=1e-4, clip=1e3),  # nothing is clipped, so means are means
        plan=batch_plans.poisson_batches(steps=1, sampling_prob=1.0),
    )
    coins, _, seen = ran(scenario, tmp_path / "run")
    np.testing.assert_allclose(seen[0, coins], 1, atol=5e-2)


def test_the_gradient_is_that_of_the_canarys_loss():
    prepared = opened(examples(canaries=3))
    task, start, canaries = prepared.scenario.task, prepared.initial_params, prepared.canaries
    found = _Gradients(task, prepared.dealt, start, list(start)).of(canaries.x, canaries.y)
    for j in range(3):
        torch.testing.assert_close(found[j], gradient(task, start, canaries.x[j], canaries.y[j]))


def test_examples_that_would_make_epochs_longer_are_refused():
    opened(examples(canaries=24, plan=batch_plans.ordered_epochs(epochs=1, batch_size=24)))
    with pytest.raises(PrivacyError, match=r"must leave the number of a client's steps alone; got"):
        opened(examples(canaries=24, plan=batch_plans.ordered_epochs(epochs=1, batch_size=4)))


def test_an_example_that_is_not_finite_spoils_no_canary():
    x = torch.tensor([[1.0, 3.0], [float("nan"), float("inf")]])
    made = _dots(x, torch.rand(50, 2, generator=torch.Generator().manual_seed(0)))
    assert made.unique().tolist() == [1.0, 3.0]


def test_models_of_double_precision_have_canaries_too(tmp_path):
    def double(part):
        return Examples(part.x.double(), part.y)

    source = small_world().data
    data = source.load(None)
    data = replace(data, train=double(data.train), test=double(data.test))
    task = classification("double", lambda: mlp(5, 8, 3).double())
    world = examples(data=replace(source, load=lambda _: data), task=task, cohort=6, rounds=1)
    _, _, seen = ran(world, tmp_path / "run")
    assert np.isfinite(seen).all()


def test_more_examples_than_fit_into_memory_are_refused_before_they_are_drawn():
    with pytest.raises(InputError, match=r"canaries must be at most \d+ for examples of 5 numbers"):
        opened(examples(canaries=10**15))


def test_the_mechanisms_steps_are_watched_with_a_canary_and_without():
    prepared = opened(examples(z=2.0))
    found = record(prepared.canaries, prepared.scenario, seed=1)["probe"]
    inside, outside = np.array(found["inside"]), np.array(found["outside"])
    assert inside.shape == outside.shape == (2500, 4)
    error = 4 * 2 / math.sqrt(2500)
    np.testing.assert_allclose(inside.mean(axis=0), [1, 0, 0, 0], atol=error)
    np.testing.assert_allclose(outside.mean(axis=0), 0, atol=error)
    np.testing.assert_allclose(outside.std(axis=0), 2, rtol=4 / math.sqrt(2 * 2500))


def test_examples_without_classes_are_refused():
    from tests.helpers.worlds import blobs

    source = blobs((1, 5, 8, 12, 20, 3))
    dataset = replace(source.load(None), num_classes=1)
    with pytest.raises(PrivacyError, match="canaries must be of a class; got"):
        opened(examples(data=replace(source, load=lambda _: dataset)))


# --- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [clients, examples])
def test_coins_are_fair_and_asked_canaries_do_not_know_them(make):
    coins = opened(make(canaries=4000)).canaries.included.float()
    assert float(coins.mean()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(4000))


def test_the_folder_says_who_was_in_before_the_first_round_and_how_far_the_model_went_after(
    tmp_path, watcher
):
    prepared = opened(clients(z=1.0, rounds=2))
    out, found = tmp_path / "run", []

    class Reader:
        def run_started(self, rounds, done, folder):
            found.append(json.loads((out / "canaries.json").read_text()))

        def round_done(self, metrics):
            pass

        def run_done(self, result):
            pass

    description = describe("canaries", {}, prepared, "cohort")
    record_run(prepared, description, direct(prepared), [Reader()], out=out)
    found.append(json.loads((out / "canaries.json").read_text()))
    before, after = found
    assert before["cosines"] is None
    assert before | {"cosines": after["cosines"]} == after
    assert after["included"] == prepared.canaries.included.int().tolist()
    assert (after["unit"], after["relation"], after["probe"]) == ("client", "zero_out", None)
    moved = [
        (torch.load(out / "checkpoint" / "state.pt")["server"][number] - start).flatten()
        for number, start in enumerate(prepared.initial_params.values())
    ]
    way = torch.cat(moved)
    torch.testing.assert_close(
        torch.tensor(after["cosines"]),
        prepared.canaries.directions @ way / way.norm(),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("make", [clients, examples])
def test_a_killed_and_resumed_run_has_seen_the_same(tmp_path, make):
    scenario = make(z=1.0)
    whole = ran(scenario, tmp_path / "whole")
    with pytest.raises(Stopped):
        ran(scenario, tmp_path / "cut", last=3)
    cut = ran(scenario, tmp_path / "cut", resume=True)
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_goes_on_with_its_own_canaries_alone(tmp_path):
    with pytest.raises(Stopped):
        ran(clients(z=1.0), tmp_path / "run", last=3)
    with pytest.raises(InputError, match="canaries must be as the run had it, 8, to resume; got 9"):
        run_into(tmp_path / "run", clients(z=1.0, canaries=9), resume=True)


def test_what_is_seen_does_not_depend_on_the_width(tmp_path):
    *_, one = ran(examples(), tmp_path / "one", width=1)
    *_, three = ran(examples(), tmp_path / "three", width=3)
    np.testing.assert_allclose(one, three, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mechanism": none()}, "canaries must be left out where nothing is private; got 8"),
        (
            {"selection": client_selection.uniform()},
            "got selection uniform. Use poisson without a limit",
        ),
        ({"selection": client_selection.poisson(most=4)}, "Use poisson without a limit"),
        ({"canaries": -1}, "canaries must be at least 0; got -1"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:40],
)
def test_canaries_that_could_not_be_judged_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        check_scenario(clients(**change), Settings())


def test_correlated_noise_is_seen_with_its_correlation(tmp_path):
    made = correlated_noise(NU, noise_multiplier=1.0)
    scenario = clients(mechanism=made, selection=client_selection.cyclic(), canaries=60, rounds=12)
    coins, asked, seen = ran(scenario, tmp_path / "run")
    noise = seen - (asked & coins).astype(float) @ overlaps(scenario)
    apart = (noise[1:] * noise[:-1]).mean()
    inverse = np.linalg.inv(
        np.array(
            [[NU.coefficients[max(i - j, 0)] * (i >= j) for j in range(12)] for i in range(12)]
        )
    )
    expected = inverse @ inverse.T
    assert apart == pytest.approx(np.diag(expected, 1).mean(), rel=0.3)
    assert apart < 0  # each release takes back some of the noise before it


def test_open_experiment_without_canaries_has_none():
    assert prepare(clients(canaries=0), Settings()).canaries is None
