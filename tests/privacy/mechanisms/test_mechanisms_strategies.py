"""Mechanisms with strategies, plans, selections and aggregators: what goes together, what not."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import norm as normal

import strategies as known
from fedsim.core.errors import InputError, PrivacyError
from fedsim.core.ledger import Entry
from fedsim.core.sampling import Everyone
from fedsim.core.settings import Settings
from fedsim.core.updates import Noise, Update
from fedsim.server.round import begin, finish_round, ledger_entries
from fedsim.server.setup import check_scenario
from fedsim.testing import direct
from fedsim.testing.linear_world import flatten_exactly
from fedsim.testing.world import run_rounds
from privacy import client_dp, correlated_dp_sgd, correlated_noise, dp_sgd, error_feedback, none
from privacy.accounting import Gaussian, PoissonGaussian, account
from privacy.matrix_factorization import MinSeparation, Observed, banded_toeplitz, nu_ftrl
from privacy.mechanisms.readers import ledger_account
from strategies import batch_plans, client_selection
from strategies.aggregators import coordinate_median, krum, mean, public_mean, trimmed_mean
from strategies.batch_plans import data_curriculum
from strategies.client_selection import client_curriculum
from strategies.step_rules import delta_sgd, sgd
from tests.helpers.mechanisms import MECHANISMS, opened, several_rounds, work_of
from tests.helpers.worlds import small_world

# --- strategies under both levels ----------------------------------------------------------------

STRATEGIES = {
    "fedavg": (known.fedavg(steps=sgd(0.1)), 1),
    "fedprox": (known.fedprox(steps=sgd(0.1), mu=0.1), 1),
    "fedspeed": (known.fedspeed(steps=sgd(0.1), lam=5.0), 2),
    "feddyn": (known.feddyn(steps=sgd(0.1), strength=0.1), 1),
    "scaffold": (known.scaffold(steps=sgd(0.1)), 1),
    "moon": (known.moon(steps=sgd(0.1)), 1),
    "fedsam": (known.fedsam(steps=sgd(0.1)), 2),
    "fedadam": (known.fedadam(known.fedavg(steps=sgd(0.1))), 1),
    "delta_sgd": (known.fedavg(steps=delta_sgd()), 2),  # at its last point, too
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("level", ["dp_sgd", "client_dp"])
def test_strategies_run_under_both_levels(name, level):
    strategy, calls = STRATEGIES[name]
    prepared = opened(several_rounds(MECHANISMS[level], strategy=strategy))
    after = run_rounds(prepared, direct(prepared), range(1, 3))
    moved = flatten_exactly(after.models[-1]) - flatten_exactly(prepared.initial_params)
    assert torch.isfinite(moved).all()
    assert bool((moved != 0).all())  # noise is on every number of the model
    assert after.accepted
    entries = ledger_entries(prepared, begin(prepared), 1, [0, 1])
    assert {entry.calls for entry in entries} == {calls if level == "dp_sgd" else 1}


def test_what_else_a_strategy_sends_is_clipped_and_noised_with_the_rest():
    """SCAFFOLD's control variates: the norm is over all tensors that leave the client."""
    strategy, scenario = known.scaffold(steps=sgd(0.1)), several_rounds(MECHANISMS["client_dp"])
    prepared = opened(replace(scenario, strategy=strategy))
    like, mechanism = prepared.diff_template, scenario.mechanism
    held = begin(prepared)
    assert like.keys() > prepared.initial_params.keys() or len(like) == 2 * len(
        prepared.initial_params
    )
    work = work_of(prepared, held, [3, 4])
    update = next(r.update for r in direct(prepared)(work) if r.update is not None)
    assert update.diff.keys() == like.keys()
    long = Update({name: 1e3 * (value + 1) for name, value in update.diff.items()}, torch.ones(2))
    bounded = mechanism.bound(held.mechanism, long).diff
    for client in range(2):
        whole = flatten_exactly({name: value[client] for name, value in bounded.items()})
        assert float(whole.norm()) == pytest.approx(1, rel=1e-5)
    counts = prepared.dealt.owned.counts()
    aggregate = scenario.aggregator.finish(scenario.aggregator.init(like), Everyone(counts, 0.5))
    noise = Noise(1, lambda round_num: torch.Generator().manual_seed(round_num))
    noised, _ = mechanism.release(held.mechanism, aggregate, noise)
    assert noised.diff.keys() == like.keys()
    assert all(bool((tensor != 0).all()) for tensor in noised.diff.values())


def test_a_round_by_hand_under_client_dp_is_the_clipped_mean_with_that_rounds_noise():
    """The definition, from the updates that the clients sent."""
    scenario = several_rounds(MECHANISMS["client_dp"], z=0.5, cohort=6)
    prepared = opened(scenario)
    held = begin(prepared)
    work = work_of(prepared, held, [1, 2, 4])
    replies = list(direct(prepared)(work))
    total = torch.zeros(75, dtype=torch.float64)
    for reply in replies:
        if reply.update is None:
            continue
        for row in range(len(reply.clients)):
            u = flatten_exactly({name: value[row] for name, value in reply.update.diff.items()})
            total += u * min(1.0, 1 / float(u.norm()))
    nobody = finish_round(prepared, held, work_of(prepared, held, []), [])
    start = flatten_exactly(prepared.initial_params)
    noise = flatten_exactly(scenario.strategy.params(nobody.state.strategy)) - start
    released = flatten_exactly(
        scenario.strategy.params(finish_round(prepared, held, work, replies).state.strategy)
    )
    torch.testing.assert_close(released, start + total / 6 + noise, rtol=1e-5, atol=1e-6)


# --- questions of one sample ---------------------------------------------------------------------


def delta_of_one_step(epsilon, q, z):
    """Of removing an example from one Poisson step (Gaussian noise z, sampling probability q)."""
    x = z**2 * math.log((math.exp(epsilon) - 1 + q) / q) + 1 / 2
    own = (1 - q) * normal.sf(x / z) + q * normal.sf((x - 1) / z)
    return own - math.exp(epsilon) * normal.sf(x / z)


@pytest.mark.parametrize(
    ("q", "z", "epsilon", "expected"),
    [(0.01, 1, 0.1, 7.2900376957612e-5), (0.1, 2, 0.1, 2.3642097069165e-3)],
)
def test_the_formula_of_this_test_is_right(q, z, epsilon, expected):
    assert delta_of_one_step(epsilon, q, z) == pytest.approx(expected, rel=1e-10)


def test_a_strategy_that_asks_twice_a_step_is_charged_for_one_release_of_less_noise():
    q, z = 0.5, 1.0
    plan = batch_plans.poisson_batches(steps=3, sampling_prob=q)
    strategy, _ = STRATEGIES["fedsam"]
    prepared = opened(several_rounds(MECHANISMS["dp_sgd"], z, strategy=strategy, plan=plan))
    entries = ledger_entries(prepared, begin(prepared), 1, [1])
    (history,) = ledger_account(1e-5).charge(entries).histories()
    (event,) = history
    assert (event.sampling_prob, event.count) == (q, 3)
    assert event.noise_multiplier == pytest.approx(z / 2**0.5)


@pytest.mark.parametrize("q", [0.001, 0.01])
def test_two_independent_releases_would_be_less_than_the_truth(q):
    """Whoever is in the step's sample is in both answers: the draw happens once, not twice."""
    z, delta = 1.0, 1e-5
    apart = account([PoissonGaussian(sampling_prob=q, noise_multiplier=z, count=2)], delta).epsilon
    truth = delta_of_one_step(apart, q, z / 2**0.5)
    assert truth > 1.5 * delta
    once = PoissonGaussian(sampling_prob=q, noise_multiplier=z / 2**0.5, count=1)
    charged = account([once], delta).epsilon
    assert charged > apart
    assert delta_of_one_step(charged, q, z / 2**0.5) == pytest.approx(delta, rel=0.02)


# --- what is refused, before round 1 -------------------------------------------------------------

CHOSEN = {
    "the plan": {"plan": data_curriculum(epochs=1, batch_size=4)},
    "the selection": {"selection": client_curriculum()},
}
ROBUST = [coordinate_median(), trimmed_mean(byzantine=1), krum(byzantine=1)]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        *(
            (n, CHOSEN["the plan"], "plan must not look at the data")
            for n in ("dp_sgd", "batch_clipping", "error_feedback", "nu_ftrl steps")
        ),
        *(
            (n, CHOSEN["the selection"], "selection must not look at the data")
            for n in ("dp_sgd", "client_dp", "local_dp", "blt steps")
        ),
        ("correlated_noise", CHOSEN["the selection"], "selection must have clients take turns"),
        *(
            (
                n,
                {"plan": batch_plans.random_batches(steps=2, batch_size=4)},
                "plan must draw its batches",
            )
            for n in ("dp_sgd", "batch_clipping", "error_feedback with G", "banded steps")
        ),
        (
            "nu_ftrl steps",
            {"plan": batch_plans.poisson_batches(steps=2, sampling_prob=0.5)},
            "plan must draw its batches ordered or shuffled",
        ),
        *(
            (n, {"aggregator": mean(w)}, "aggregator must divide by public constants")
            for n in ("client_dp", "client_dp quantile", "correlated_noise")
            for w in ("examples", "uniform")
        ),
        *(
            ("client_dp", {"aggregator": rule, "cohort": 6}, "aggregator must divide by public")
            for rule in ROBUST
        ),
        (
            "correlated_noise",
            {"selection": client_selection.poisson()},
            "must have clients take turns",
        ),
        (
            "correlated_noise",
            {"selection": client_selection.uniform()},
            "must have clients take turns",
        ),
        ("correlated_noise", {"rounds": 61}, "rounds must be at most 60"),
    ],
)
def test_what_voids_a_guarantee_is_refused_before_any_data_are_read(name, change, message):
    def load(data_dir):
        raise AssertionError("data were read")

    scenario = several_rounds(MECHANISMS[name], **change)
    scenario = replace(scenario, data=replace(scenario.data, load=load))
    with pytest.raises(PrivacyError, match=message) as refused:
        opened(scenario)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (known.zeroth_order(known.fedavg(steps=sgd(0.1))), "a loss, which cannot be had"),
        (known.feddecorr(steps=sgd(0.1)), "penalty must be separable"),
        (known.fedld(steps=sgd(0.1), form="batch"), "penalty must be separable"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_strategies_that_look_at_more_than_gradients_are_refused_at_example_level(
    strategy, message
):
    with pytest.raises(PrivacyError, match=message):
        opened(several_rounds(MECHANISMS["dp_sgd"], strategy=strategy))
    opened(several_rounds(MECHANISMS["client_dp"], strategy=strategy))  # their own data


@pytest.mark.parametrize("name", ["error_feedback", "nu_ftrl steps"])
def test_mechanisms_with_a_memory_of_steps_refuse_several_questions_a_step(name):
    strategy, _ = STRATEGIES["fedsam"]
    prepared = opened(several_rounds(MECHANISMS[name], strategy=strategy))
    with pytest.raises(PrivacyError, match="strategy must ask for one gradient a step; got 2"):
        ledger_entries(prepared, begin(prepared), 1, [1])


def test_a_budget_without_privacy_is_refused():
    with pytest.raises(PrivacyError, match="epsilon must be left out where nothing is private"):
        opened(small_world(mechanism=none(), budget=1.0))


def test_what_goes_together():
    """Local privacy with any rule of combination; clients in the order of their own losses."""
    for name, change in (
        ("local_dp", {"aggregator": coordinate_median()}),
        ("dp_sgd", {"aggregator": coordinate_median()}),
        ("dp_sgd", {"aggregator": public_mean(), "selection": client_selection.poisson()}),
        ("client_dp", CHOSEN["the plan"]),
        ("dp_sgd", {"plan": batch_plans.shuffled_epochs(epochs=1, batch_size=4)}),
    ):
        scenario = several_rounds(MECHANISMS[name], **change)
        assert scenario.mechanism.objection(scenario) is None
        check_scenario(scenario, Settings())


# --- what correlated noise is accounted as -------------------------------------------------------


def spent(entries):
    (history,) = ledger_account(1e-5).charge(entries).histories()
    (event,) = history
    return event


SMALL = banded_toeplitz((0.1, 0.05, 0.02), rounds=12, normalised=True)


@pytest.mark.parametrize("made", [nu_ftrl(0.1, rounds=12), SMALL], ids=["nu_ftrl", "normalised"])
def test_noise_across_rounds_is_one_gaussian_at_the_sensitivity_of_the_rounds_seen(made):
    scenario = several_rounds(MECHANISMS["client_dp"])
    mechanism = correlated_noise(made, noise_multiplier=2.0, clip=3.0)
    chosen = replace(scenario, mechanism=mechanism, selection=client_selection.cyclic(), cohort=2)
    prepared = opened(chosen)
    entries = []
    for round_num in range(1, 13):
        turn = (round_num - 1) % 3
        entries += ledger_entries(prepared, begin(prepared), round_num, [2 * turn, 2 * turn + 1])
    times = tuple(tuple(range(turn, 12, 3)) for turn in range(3))
    expected = made.sensitivity(Observed(times)).value / 2.0
    account = ledger_account(1e-5).charge(entries)
    assert max(event.mu for (event,) in account.histories()) == pytest.approx(expected)
    assert account.exactly() == account_of_mu(expected)


def account_of_mu(mu):
    return account([Gaussian(mu=mu)], 1e-5).epsilon


@pytest.mark.parametrize("plan", [batch_plans.ordered_epochs, batch_plans.shuffled_epochs])
def test_noise_across_steps_is_one_gaussian_at_the_separation_that_the_order_keeps(plan):
    """Shuffled, the last batch of an epoch and the first of the next may have one example."""
    made = nu_ftrl(0.1, rounds=12)
    batches = plan(epochs=2, batch_size=4)
    scenario = several_rounds(MECHANISMS["dp_sgd"], plan=batches, sizes=(8, 8, 8))
    mechanism = correlated_dp_sgd(made, noise_multiplier=2.0)
    prepared = opened(replace(scenario, mechanism=mechanism))
    entries = [e for r in (1, 2, 3) for e in ledger_entries(prepared, begin(prepared), r, [1])]
    apart = 2 if batches.sampling.kind == "ordered" else 1
    schema = MinSeparation(separation=apart, most=6)
    assert spent(entries).mu == pytest.approx(made.sensitivity(schema).value / 2.0)


def test_more_steps_than_the_noise_was_made_for_are_refused_before_the_round():
    scenario = several_rounds(
        MECHANISMS["dp_sgd"], plan=batch_plans.ordered_epochs(epochs=1, batch_size=4)
    )
    mechanism = correlated_dp_sgd(nu_ftrl(0.1, rounds=12), noise_multiplier=2.0)
    prepared = opened(replace(scenario, mechanism=mechanism))
    account = ledger_account(1e-5)
    for round_num in (1, 2):  # five steps each, of client 4's 20 examples
        account = account.charge(ledger_entries(prepared, begin(prepared), round_num, [4]))
        assert account.epsilon() > 0
    account = account.charge(ledger_entries(prepared, begin(prepared), 3, [4]))
    with pytest.raises(PrivacyError, match=r"steps must be at most 12, .* got 15"):
        account.epsilon()


# --- whose budget it is --------------------------------------------------------------------------


def test_examples_of_different_clients_are_charged_in_parallel_and_the_worst_counts():
    def entry(round_num, clients):
        return Entry(
            round=round_num,
            unit="example",
            relation="zero_out",
            mechanism="gaussian",
            sampler={"kind": "poisson", "sampling_prob": 0.2, "overflow": 0.0},
            sensitivity=1.0,
            noise_std=2.0,
            noise_multiplier=2.0,
            steps=5,
            clients=clients,
        )

    account = ledger_account(1e-5).charge([entry(1, (0, 1)), entry(2, (1, 2)), entry(3, (1,))])
    worst = PoissonGaussian(sampling_prob=0.2, noise_multiplier=2.0, count=15)
    assert account.histories() == [[worst]]
    assert account.exactly() == account_events([worst])


def account_events(events):
    return account(events, 1e-5).epsilon


def test_clients_of_a_poisson_cohort_share_one_budget_asked_or_not():
    scenario = several_rounds(MECHANISMS["client_dp"], z=2.0)
    prepared = opened(scenario)
    entries = [e for r in (1, 2) for e in ledger_entries(prepared, begin(prepared), r, [r])]
    event = spent(entries)
    assert event == PoissonGaussian(sampling_prob=4 / 6, noise_multiplier=2.0, count=2)


@pytest.mark.parametrize("make", [client_dp, dp_sgd, error_feedback])
def test_a_refusal_is_a_users_mistake(make):
    """So a command ends with exit code 2 and one line."""
    with pytest.raises(InputError):
        make(noise_multiplier=-1.0)
