"""Every mechanism keeps its contract; joining the battery is one line in mechanisms.MECHANISMS."""

import itertools
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as draw

from fedsim.core import trees
from fedsim.core.errors import PrivacyError
from fedsim.core.ledger import read_ledger, until
from fedsim.core.sampling import Everyone
from fedsim.core.updates import Update
from fedsim.runs.folder import read_metrics
from fedsim.server.round import begin, finish_round, ledger_entries
from fedsim.testing import direct
from fedsim.testing.linear_world import DIMS, flatten_exactly
from fedsim.world import partition
from privacy import client_dp, correlated_noise, local_dp
from privacy.matrix_factorization import independent
from privacy.mechanisms.readers import ledger_account, read_account
from strategies import batch_plans, client_selection
from strategies.aggregators import public_mean
from tests.helpers.mechanisms import (
    CLIENT,
    EXAMPLE,
    MECHANISMS,
    POISSON,
    QUIET,
    Stopped,
    cut,
    divisor,
    linear_world,
    opened,
    released,
    run_into,
    several_rounds,
    shaped,
    work_of,
)
from tests.helpers.worlds import small_world

every = pytest.mark.parametrize("name", MECHANISMS)

# --- sensitivity ---------------------------------------------------------------------------------

HUGE = torch.where(torch.arange(DIMS) % 2 == 0, 1e38, -1e38)  # no sum of it overflows
ONE_LAYER = torch.zeros(DIMS).index_fill(0, torch.arange(24), 1e15)
ONE_NUMBER = torch.zeros(DIMS).index_fill(0, torch.tensor([DIMS - 1]), -3e18)  # the 0-d parameter
NAN, INFINITE = torch.zeros(DIMS), torch.zeros(DIMS)
NAN[5], INFINITE[30] = torch.nan, -torch.inf
ZERO = torch.zeros(DIMS)
SHORT = torch.full((DIMS,), 1e-3)

KINDS = {
    "zero": ZERO,
    "huge": HUGE,
    "one layer": ONE_LAYER,
    "one number": ONE_NUMBER,
    "short": SHORT,
    "against": -SHORT * 1e4,
    "tiny": SHORT * 1e-30,
    "nan": NAN,
    "infinite": INFINITE,
}
kinds = draw.sampled_from(list(KINDS))


def a_unit(of_seed):
    stream = torch.Generator().manual_seed(of_seed)
    return torch.randn(DIMS, generator=stream) * 10 ** (4 * torch.rand((), generator=stream) - 2)


units = draw.one_of(kinds.map(KINDS.get), draw.integers(0, 999).map(a_unit))


def moved_by(case, others, unit, instead=ZERO):
    """How far a unit's data move what is released; [] and the sensitivity that is stated."""
    first, second = (released(case, torch.stack([*others, u])) for u in (unit, instead))
    stated = first.entries[0].sensitivity * case.clip
    return float((first.total - second.total).norm()), stated


@every
@given(unit=units, others=draw.lists(units, max_size=3))
@settings(max_examples=10, deadline=None)
def test_no_unit_moves_a_release_by_more_than_the_stated_sensitivity(name, unit, others):
    moved, stated = moved_by(MECHANISMS[name], others, unit)
    assert moved <= stated * (1 + 1e-5)


@pytest.mark.parametrize("name", [n for n in MECHANISMS if "automatic" not in n])
def test_the_stated_sensitivity_is_reached(name):
    """So it is not larger than it need be: with the unit longer than any clip norm."""
    case, unit = MECHANISMS[name], a_unit(1) * 1e6
    if name == "batch_clipping":  # it is reached by turning the whole batch around
        moved, stated = moved_by(case, [unit], -3 * unit)
    elif case.kind == "fixed":  # any update for any other
        moved, stated = moved_by(case, [], unit, -unit)
    else:
        moved, stated = moved_by(case, [a_unit(2)], unit)
    assert moved == pytest.approx(stated, rel=1e-4)


@pytest.mark.parametrize("name", ["dp_sgd quantile", "client_dp quantile"])
@pytest.mark.parametrize("unit", [ONE_LAYER, SHORT], ids=["long", "short"])
def test_a_unit_moves_the_count_of_short_ones_by_a_half(name, unit):
    """C grows by exp(-rate (share - target)), and the share is the count over the units."""
    case, others = MECHANISMS[name], [a_unit(1), a_unit(2)]
    logs = []
    for last, there in ((unit, [0, 1, 2]), (NAN, [0, 1])):  # with it, and without
        prepared = linear_world(case, torch.stack([*others, last]))
        held = begin(prepared)
        if case.unit == "client":
            work = work_of(prepared, held, there)
            outcome = finish_round(prepared, held, work, direct(prepared)(work))
            norm = outcome.state.mechanism
        else:
            start = _stack_of_one(prepared.client_template)
            norm = prepared.trainer.train(1, prepared.broadcast_template, [0], start).states.memory[
                0
            ]
        logs.append(float(norm.log()))
    votes = (logs[1] - logs[0]) / 0.2 * 3
    assert votes == pytest.approx(-0.5 if unit is ONE_LAYER else 0.5, abs=1e-4)


def _stack_of_one(state):
    return trees.map_leaves(state, lambda tensor: tensor.unsqueeze(0))


@every
@pytest.mark.parametrize("bad", [NAN, INFINITE], ids=["nan", "infinite"])
def test_a_unit_that_is_not_finite_contributes_nothing_and_changes_nobody(name, bad):
    case, others = MECHANISMS[name], [a_unit(1), SHORT, a_unit(2)]
    with_it = released(case, torch.stack([*others, bad]))
    without = released(case, torch.stack([*others, ZERO]))
    torch.testing.assert_close(with_it.total, without.total, rtol=1e-6, atol=1e-5)
    assert with_it.entries == without.entries  # charged all the same


@every
def test_where_all_are_not_finite_there_is_noise_and_nothing_else(name):
    case = MECHANISMS[name]
    found = released(case, NAN.expand(3, -1), z=1.0)
    assert torch.isfinite(found.total).all()
    assert float(found.total.abs().min()) > 0


@every
def test_zero_stays_zero(name):
    assert (
        float(released(MECHANISMS[name], torch.zeros(3, DIMS), z=1e-30).total.abs().max()) < 1e-25
    )


@every
def test_units_add_up_in_any_order(name):
    case = MECHANISMS[name]
    data = torch.stack([a_unit(seed) for seed in range(5)])
    forth, back = (released(case, rows).total for rows in (data, data.flip(0)))
    torch.testing.assert_close(forth, back, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("clip_norm", [1e-4, 1.0])
def test_not_even_rounding_lets_a_client_through_that_is_longer(clip_norm):
    """At 1e38 the factor is smaller than any ordinary float."""
    mechanism = client_dp(noise_multiplier=1.0, clip=clip_norm)
    for length in (1e3, 1e20, 1e38, 3e38):
        diff = {"a.weight": torch.full((1, 500, 40), length), "b": torch.full((1,), -length)}
        norm = mechanism.init({"a.weight": diff["a.weight"][0], "b": diff["b"][0]})
        bounded = mechanism.bound(norm, Update(diff, torch.ones(1)))
        assert float(flatten_exactly(bounded.diff).norm()) <= clip_norm * (1 + 1e-5)


@every
def test_the_clip_norm_is_a_length_and_the_one_that_the_sensitivity_is_stated_in(name):
    case = MECHANISMS[name]
    mechanism = case.make(1.0)
    norm = mechanism.norm(mechanism.init({"a": torch.zeros(3)}))
    prepared = linear_world(case, torch.zeros(1, DIMS), z=1.0)
    (entry,) = ledger_entries(prepared, begin(prepared), 1, [0])
    times = 2 if name == "batch_clipping" or case.kind == "fixed" else 1  # turned, or replaced
    assert norm == pytest.approx(entry.sensitivity * case.clip / times)
    assert 0 < norm < math.inf


@pytest.mark.parametrize("name", CLIENT)
def test_no_update_leaves_a_mechanism_longer_than_its_clip_norm(name):
    mechanism = MECHANISMS[name].make(QUIET)
    rows = torch.stack([HUGE, ONE_LAYER, ONE_NUMBER, SHORT, ZERO, *map(a_unit, range(20))])
    trees_of = [shaped(row) for row in rows]
    stack = {key: torch.stack([tree[key] for tree in trees_of]) for key in trees_of[0]}
    state = mechanism.init(trees_of[0])
    keys = torch.arange(len(rows))
    bounded = mechanism.bound(state, Update(stack, torch.ones(len(rows)), keys)).diff
    flat = torch.cat([tensor.reshape(len(rows), -1) for tensor in bounded.values()], dim=1)
    longest = float(flat.double().norm(dim=1).max())
    assert longest <= mechanism.norm(state) * (1 + 2e-5)  # local_dp adds noise of 1e-6 a number
    if "automatic" not in name and "per layer" not in name:
        assert longest == pytest.approx(mechanism.norm(state), rel=1e-4)


# --- noise and its keys --------------------------------------------------------------------------


@every
def test_the_same_seed_gives_the_same_bits_and_another_one_other_noise(name):
    case, data = MECHANISMS[name], torch.stack([a_unit(seed) for seed in range(3)])
    first, again, other = (released(case, data, z=1.0, seed=seed).total for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert bool((first != other).all())


@every
def test_no_two_rounds_have_the_same_noise(name):
    case = MECHANISMS[name]
    prepared = linear_world(case, torch.zeros(3, DIMS), z=1.0)
    held, exchange, noises = begin(prepared), direct(prepared), []
    everybody = range(prepared.scenario.population)
    for round_num in (1, 2, 3):
        before = flatten_exactly(prepared.scenario.strategy.params(held.strategy))
        work = work_of(prepared, held, everybody, round_num)
        work = replace(work, accepted=dict.fromkeys(everybody, round_num - 1))
        held = finish_round(prepared, held, work, exchange(work)).state
        noises.append(flatten_exactly(prepared.scenario.strategy.params(held.strategy)) - before)
    for i, noise in enumerate(noises):
        assert all(bool((noise != other).all()) for other in noises[:i])


@every
def test_clients_one_by_one_or_as_a_stack_release_the_same(name, tmp_path):
    scenario = several_rounds(MECHANISMS[name], rounds=2)
    alone, together = (
        run_into(tmp_path / str(width), scenario, width=width).params for width in (1, 6)
    )
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@every
def test_neither_the_order_of_replies_nor_their_portions_matter(name):
    prepared = opened(several_rounds(MECHANISMS[name]), width=6)
    held = begin(prepared)
    work = work_of(prepared, held, [0, 1, 2, 3, 4, 5])
    replies = list(direct(prepared)(work))
    forms = (replies, replies[::-1], list(cut(replies, 1)), list(cut(replies, 4))[::-1])
    models = [
        prepared.scenario.strategy.params(finish_round(prepared, held, work, form).state.strategy)
        for form in forms
    ]
    for model in models[1:]:
        torch.testing.assert_close(model, models[0], rtol=1e-5, atol=1e-6)


def test_independent_noise_across_rounds_is_client_dp_bit_for_bit():
    data = torch.stack([a_unit(seed) for seed in range(4)])
    case = MECHANISMS["correlated_noise"]
    made = replace(
        case, make=lambda z: correlated_noise(independent(rounds=40), noise_multiplier=z)
    )
    plain = replace(MECHANISMS["client_dp"], kind="cyclic")
    assert torch.equal(released(made, data, z=1.0).total, released(plain, data, z=1.0).total)


# --- empty batches and cohorts -------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in EXAMPLE if n in POISSON])
def test_an_empty_batch_is_a_step_like_any_other(name):
    """Nobody is drawn: what comes out is noise of the full size, and it is charged."""
    case, prob = MECHANISMS[name], 1e-9
    nobody = batch_plans.poisson_batches(steps=1, sampling_prob=prob)
    prepared = linear_world(case, torch.stack([HUGE * 1e-24] * 3), z=1.0)
    prepared = opened(replace(prepared.scenario, plan=nobody))
    held = begin(prepared)
    work = work_of(prepared, held, [0])
    outcome = finish_round(prepared, held, work, direct(prepared)(work))
    model = flatten_exactly(prepared.scenario.strategy.params(outcome.state.strategy))
    size = model * (3 * prob if case.summed else 1)  # expected batch: 3e-9 examples
    assert 0.3 < float(size.square().mean().sqrt()) / work.entries[0].noise_std / case.clip < 3
    (entry,) = work.entries
    assert (entry.steps, entry.clients, entry.sampler["sampling_prob"]) == (1, (0,), prob)


@pytest.mark.parametrize("name", [n for n in CLIENT if n != "local_dp"])
@pytest.mark.parametrize("cohort", [[], [2]], ids=["nobody", "nobody who has examples"])
def test_an_empty_cohort_is_a_round_like_any_other(name, cohort):
    case = MECHANISMS[name]
    prepared = opened(
        several_rounds(
            case,
            z=1.0,
            sizes=(3, 5, 0, 8),
            split=partition.given(np.repeat(range(4), (3, 5, 0, 8))),
        )
    )
    held = begin(prepared)
    work = work_of(prepared, held, cohort)
    outcome = finish_round(prepared, held, work, direct(prepared)(work))
    before, after = (
        flatten_exactly(prepared.scenario.strategy.params(h.strategy))
        for h in (held, outcome.state)
    )
    assert bool((before != after).all())
    (entry,) = work.entries
    noise = (after - before) * 3 / (entry.noise_std * case.clip)  # three of the four have examples
    assert 0.5 < float(noise.square().mean().sqrt()) < 2


def test_a_run_of_empty_rounds_is_charged_for_every_one_of_them(tmp_path):
    scenario = several_rounds(MECHANISMS["client_dp"], cohort=1, rounds=6, sizes=(4,) * 6)
    run_into(tmp_path / "run", scenario, seed=3)
    rows, (entries, _) = read_metrics(tmp_path / "run"), read_ledger(tmp_path / "run/ledger.jsonl")
    assert 0 in [row["cohort"] for row in rows]
    assert [entry.round for entry in entries] == [1, 2, 3, 4, 5, 6]
    epsilons = [row["epsilon"] for row in rows]
    assert all(a < b for a, b in itertools.pairwise(epsilons))


# --- the ledger ----------------------------------------------------------------------------------


@every
def test_killed_and_resumed_the_noise_and_the_ledger_are_those_of_a_run_that_was_not(
    name, tmp_path
):
    scenario = several_rounds(MECHANISMS[name])
    whole = run_into(tmp_path / "whole", scenario)
    for last in (1, 2):
        with pytest.raises(Stopped):
            run_into(tmp_path / "cut", scenario, last=last, resume=last > 1)
    resumed = run_into(tmp_path / "cut", scenario, resume=True)
    for key, value in whole.params.items():
        assert torch.equal(value, resumed.params[key])
    ledgers = [(tmp_path / run / "ledger.jsonl").read_text() for run in ("whole", "cut")]
    assert ledgers[0] == ledgers[1]
    assert resumed.metrics == [{**row, "seconds": 0.0} for row in whole.metrics]


@every
def test_every_release_is_in_the_ledger_with_all_that_an_accountant_needs(name, tmp_path):
    case, z = MECHANISMS[name], 1.3
    scenario = several_rounds(case, z)
    finished = run_into(tmp_path / "run", scenario)
    prepared = opened(scenario)
    rows = read_metrics(tmp_path / "run")
    entries, _ = read_ledger(tmp_path / "run/ledger.jsonl")
    mechanism, sizes = scenario.mechanism, prepared.dealt.owned.counts().tolist()
    for entry in entries:
        assert entry.unit == mechanism.unit == case.unit
        fixed = case.kind == "fixed"
        assert entry.relation == ("replace" if fixed else mechanism.relation.replace("-", "_"))
        sampled = scenario.plan if case.unit == "example" else scenario.selection
        assert entry.sampler["kind"] == sampled.sampling.kind == case.kind
        assert entry.sensitivity > 0
        assert entry.noise_std == pytest.approx(entry.sensitivity * entry.noise_multiplier)
        assert entry.calls == 1
        if not name.startswith("error_feedback"):  # where z is the paper's, of another sum
            twice = 2 if entry.relation == "replace" else 1
            assert entry.noise_multiplier == pytest.approx(z / twice)
    if case.unit == "client":
        assert [entry.round for entry in entries] == [1, 2, 3]
        assert all(entry.steps == 1 for entry in entries)
    else:
        for row in rows:
            mine = [entry for entry in entries if entry.round == row["round"]]
            charged = sorted(client for entry in mine for client in entry.clients)
            assert len(set(charged)) == len(charged) == row["cohort"] - row["empty"]
            for entry in mine:
                steps = {scenario.plan.num_steps(sizes[client]) for client in entry.clients}
                assert steps == {entry.steps}
    lines = (tmp_path / "run/ledger.jsonl").read_text().splitlines()
    assert all(set(json.loads(line)) == {*asdict(entries[0]), "seal"} for line in lines)
    assert finished.account == read_account(tmp_path / "run/ledger.jsonl", 1e-5)


@every
def test_epsilon_in_the_metrics_is_what_the_ledger_says(name, tmp_path):
    finished = run_into(tmp_path / "run", several_rounds(MECHANISMS[name]))
    entries, _ = read_ledger(tmp_path / "run/ledger.jsonl")
    rows = read_metrics(tmp_path / "run")
    for row in rows[:-1]:
        account = ledger_account(1e-5).charge(until(entries, row["round"]))
        assert row["epsilon"] == account.epsilon()
        if name == "error_feedback":
            assert row["epsilon"] is None
        else:
            assert row["epsilon"] == pytest.approx(account.exactly(), rel=6e-3)
            assert row["epsilon"] >= account.exactly() * (1 - 1e-9)
    assert rows[-1]["epsilon"] == read_account(tmp_path / "run/ledger.jsonl", 1e-5).exactly()
    assert finished.account.exactly() == rows[-1]["epsilon"]


@every
def test_there_is_no_train_loss_under_privacy(name, tmp_path):
    run_into(tmp_path / "run", several_rounds(MECHANISMS[name], rounds=2))
    assert [row["train_loss"] for row in read_metrics(tmp_path / "run")] == [None, None]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIENT)
def test_whole_numbers_in_an_update_are_refused(name):
    mechanism = MECHANISMS[name].make(1.0)
    like = {"weight": torch.zeros(3), "batches": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(PrivacyError, match=r"batches must be floating point .* got int64\."):
        mechanism.init(like)


@pytest.mark.parametrize("cohort", [[0], [0, 3], [0, 1, 3]])
def test_the_divisor_is_public_whatever_comes_back(cohort):
    """Of four clients two are expected: the sum is divided by two, be there one or three."""
    case, data = MECHANISMS["client_dp"], torch.stack([SHORT] * 4)
    prepared = linear_world(case, data, cohort=2)
    held = begin(prepared)
    work = work_of(prepared, held, cohort)
    outcome = finish_round(prepared, held, work, direct(prepared)(work))
    model = flatten_exactly(prepared.scenario.strategy.params(outcome.state.strategy))
    torch.testing.assert_close(model, -SHORT.double() * len(cohort) / 2, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in EXAMPLE if n in POISSON and "batch" not in n])
def test_the_divisor_of_a_batch_is_public_whatever_was_drawn(name):
    case = MECHANISMS[name]
    data = torch.stack([SHORT * 1e-3] * 41)
    half = batch_plans.poisson_batches(steps=1, sampling_prob=0.5)
    prepared = opened(replace(linear_world(case, data).scenario, plan=half))
    held = begin(prepared)
    work = work_of(prepared, held, [0])
    trained = next(r for r in direct(prepared)(work) if r.update is not None)
    mask = prepared.trainer.schedule(1, [0]).mask
    drawn = float(mask.sum())
    assert drawn != 20.5  # else this says nothing
    quiet = released(case, data, z=QUIET).total / 41  # what one example gives
    expected = drawn * quiet / 20.5
    torch.testing.assert_close(flatten_exactly(trained.update.diff), expected, rtol=1e-3, atol=1e-6)
    assert divisor(case, 41) == 41


@pytest.mark.parametrize("name", ["client_dp", "correlated_noise"])
@pytest.mark.parametrize("full", [None, 4.0])
def test_weights_are_at_most_one_and_the_noise_is_for_the_largest(name, full):
    """A client of 1000 examples moves the mean as far as one of 4: by C / (q W)."""
    case = replace(MECHANISMS[name], aggregator=public_mean(full))
    scenario = several_rounds(case, z=QUIET, sizes=(1, 2, 40, 4), cohort=4)
    prepared = opened(scenario)
    held = begin(prepared)
    like = prepared.diff_template
    weights = [1, 1, 1, 1] if full is None else [1 / 4, 2 / 4, 1, 1]
    for client, examples in enumerate((1, 2, 40, 4)):
        update = Update(
            {k: torch.full((1, *v.shape), 9.0) for k, v in like.items()},
            torch.tensor([float(examples)]),
        )
        total = scenario.aggregator.add(
            scenario.aggregator.init(like), scenario.mechanism.bound(held.mechanism, update)
        )
        everyone = everyone_of(prepared)
        aggregate = scenario.aggregator.finish(total, everyone)
        assert aggregate.l2_sensitivity == pytest.approx(1 / sum(weights))
        length = float(flatten_exactly(aggregate.diff).norm())
        assert length == pytest.approx(weights[client] / sum(weights), rel=1e-5)


def everyone_of(prepared):
    counts = prepared.dealt.owned.counts()
    return Everyone(counts, prepared.scenario.cohort / prepared.scenario.population)


def test_every_update_is_noised_by_itself_under_local_privacy():
    mechanism = local_dp(noise_multiplier=1.0)
    update = Update({"x": torch.zeros(3, 500)}, torch.ones(3), torch.tensor([5, 6, 7]))
    sent = mechanism.bound((), update).diff["x"]
    alone = mechanism.bound(
        (), Update({"x": torch.zeros(1, 500)}, torch.ones(1), torch.tensor([6]))
    ).diff["x"]
    assert torch.equal(sent[1], alone[0])
    correlation = torch.corrcoef(sent) - torch.eye(3)
    assert float(correlation.abs().max()) < 5 / 500**0.5


def test_a_charge_depends_on_the_plan_and_not_on_what_clients_answer():
    """Charged before the work: a cohort that fails has cost what one that works costs."""
    case = MECHANISMS["dp_sgd"]
    scenario = several_rounds(case, sizes=(4, 5, 6))
    poisoned = small_world(**case.parts(1.0), sizes=(4, 5, 6), poison=1)
    entries = []
    for made in (scenario, poisoned):
        prepared = opened(made)
        entries.append(ledger_entries(prepared, begin(prepared), 1, [0, 1, 2]))
    assert entries[0] == entries[1]


def test_poisson_cohorts_come_from_another_stream_than_the_noise():
    """The noise of a round is not told by who takes part in it."""
    scenario = several_rounds(MECHANISMS["client_dp"], selection=client_selection.poisson())
    prepared = opened(scenario)
    held = begin(prepared)
    noises = []
    for cohort in ([0, 1], [2, 3, 4]):
        work = work_of(prepared, held, cohort)
        quiet = finish_round(prepared, held, work, [])
        noises.append(flatten_exactly(scenario.strategy.params(quiet.state.strategy)))
    assert torch.equal(noises[0], noises[1])
