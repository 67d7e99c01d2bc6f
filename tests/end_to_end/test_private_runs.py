"""Private runs: every kind of cohort, studies, plots, Flower's own loop, resuming."""

import json
import math
from dataclasses import replace

import pytest
import torch

from fedsim.cli import main
from fedsim.core.errors import InputError, PrivacyError
from fedsim.core.jsonl import read_lines
from fedsim.core.ledger import read_ledger, sealed
from fedsim.core.settings import Settings
from fedsim.flower.client import client_app
from fedsim.flower.grid import CohortGrid
from fedsim.flower.strategy import FlowerStrategy
from fedsim.runs.folder import read_metrics
from fedsim.runs.forecast import budget
from fedsim.server.setup import check_scenario, prepare
from privacy import client_dp, correlated_noise, dp_sgd
from privacy.accounting import Gaussian, PoissonGaussian, TruncatedPoisson, account
from privacy.matrix_factorization import Single, banded, nu_ftrl
from privacy.mechanisms.readers import read_account
from strategies import batch_plans, client_selection
from strategies.aggregators import public_mean
from tests.helpers.mechanisms import run_into
from tests.helpers.worlds import small_world

DELTA = 1e-3


def clients(**changes):
    """Ten clients of four examples, protected as wholes."""
    given = {
        "sizes": (4,) * 10,
        "cohort": 4,
        "rounds": 5,
        "selection": client_selection.poisson(),
        "aggregator": public_mean(),
        "mechanism": client_dp(noise_multiplier=1.0, delta=DELTA),
    }
    return small_world(**(given | changes))


def forecast(scenario):
    return budget(prepare(scenario, Settings(width=1, workers=1)))


# --- cohorts -------------------------------------------------------------------------------------


def test_a_poisson_cohort_is_accounted_by_its_sampling_probability():
    event = PoissonGaussian(sampling_prob=0.4, noise_multiplier=1.0, count=5)
    assert forecast(clients())["epsilon"] == account([event], DELTA).epsilon


def test_truncating_a_poisson_cohort_is_charged():
    found = forecast(clients(selection=client_selection.poisson(most=6)))["epsilon"]
    event = TruncatedPoisson(sampling_prob=0.4, noise_multiplier=1.0, population=10, cap=6, count=5)
    assert found == account([event], DELTA).epsilon
    assert found > forecast(clients())["epsilon"]


def test_a_truncated_cohort_keeps_its_limit_and_drops_clients_uniformly():
    from fedsim.core.rng import Purpose, numpy_stream
    from fedsim.core.sampling import Draw

    chosen, times = client_selection.poisson(most=3), torch.zeros(10)
    for round_num in range(1, 2001):
        draw = Draw(
            population=10,
            cohort=5,
            rounds=2000,
            round_num=round_num,
            scores=None,
            stream=numpy_stream(1, Purpose.COHORT, round_num),
        )
        cohort, _ = chosen.choose(chosen.init(10), draw)
        assert len(cohort) <= 3
        times[cohort] += 1
    each = float(times.sum()) / 10
    assert ((times - each).abs() < 5 * math.sqrt(each)).all()


def test_cyclic_cohorts_are_charged_for_the_rounds_they_take_part_in():
    # ten clients, four a round: two groups, so client 0 is in rounds 1, 3 and 5
    found = forecast(clients(selection=client_selection.cyclic()))["epsilon"]
    assert found == account([Gaussian(mu=1.0, count=3)], DELTA).epsilon


GROUPED = banded(2, rounds=5, separation=2, participations=1)


def grouped(groups, made=GROUPED):
    return clients(
        cohort=2,
        selection=client_selection.poisson_groups(groups),
        mechanism=correlated_noise(made, noise_multiplier=1.0, delta=DELTA),
    )


def test_sampling_amplifies_banded_noise_over_clients_in_as_many_groups():
    # two groups by turns: the first is in rounds 1, 3 and 5, each time with chance 2 * 2 / 10
    longest = GROUPED.sensitivity(Single()).value
    event = PoissonGaussian(sampling_prob=0.4, noise_multiplier=1 / longest, count=3)
    assert forecast(grouped(2))["epsilon"] == pytest.approx(
        account([event], DELTA).epsilon, rel=1e-9
    )


def test_fewer_groups_than_bands_are_refused():
    with pytest.raises(PrivacyError, match="groups must be at least the bands, 2; got 1"):
        check_scenario(grouped(1), Settings())
    with pytest.raises(PrivacyError, match="groups must be at least the bands, 5; got 2"):
        check_scenario(grouped(2, nu_ftrl(0.1, rounds=5)), Settings())


def test_groups_take_turns_and_only_their_own_clients_are_selected():
    from fedsim.core.rng import Purpose, numpy_stream
    from fedsim.core.sampling import Draw

    chosen = client_selection.poisson_groups(3)
    for round_num in range(1, 40):
        draw = Draw(
            population=12,
            cohort=4,
            rounds=40,
            round_num=round_num,
            scores=None,
            stream=numpy_stream(1, Purpose.COHORT, round_num),
        )
        cohort, _ = chosen.choose(chosen.init(12), draw)
        assert cohort == [c for c in range(12) if c % 3 == (round_num - 1) % 3]  # chance 1
    with pytest.raises(InputError, match="groups must be at most population / cohort; got 3"):
        chosen.choose(chosen.init(12), replace(draw, cohort=5))


# --- Flower's own loop ---------------------------------------------------------------------------


def test_under_flowers_own_loop_every_round_is_charged_and_the_budget_holds(flower_identity):
    world = prepare(clients(cohort=10), Settings(width=1, workers=1))
    spent = account(
        [PoissonGaussian(sampling_prob=1.0, noise_multiplier=1.0, count=3)], DELTA
    ).epsilon
    within = replace(world, scenario=replace(world.scenario, budget=spent + 1e-6))
    strategy = FlowerStrategy(within)
    grid = CohortGrid(client_app(lambda _: within), num_nodes=10)
    strategy.start(grid, strategy.initial_arrays(), num_rounds=3)
    assert [entry.round for entry in strategy.ledger] == [1, 2, 3]
    with pytest.raises(PrivacyError, match="round 4 would take epsilon to"):
        strategy.configure_train(4, strategy.initial_arrays(), {}, grid)
    assert len(strategy.ledger) == 3


def test_under_flowers_own_loop_canaries_are_observed_as_in_a_run(flower_identity, tmp_path):
    world = prepare(clients(cohort=10, rounds=2, canaries=12), Settings(width=1, workers=1))
    strategy = FlowerStrategy(world)
    grid = CohortGrid(client_app(lambda _: world), num_nodes=10)
    strategy.start(grid, strategy.initial_arrays(), num_rounds=2)
    run_into(tmp_path / "run", world.scenario, width=1)
    rows = read_lines(tmp_path / "run" / "canaries.jsonl")
    assert [row["asked"] for row in strategy.observations] == [row["asked"] for row in rows]
    for ours, theirs in zip(strategy.observations, rows, strict=True):
        assert ours["seen"] == pytest.approx(theirs["seen"], abs=1e-4)


# --- runs and studies from the command line ------------------------------------------------------

SCRIPT = '''
"""Digits with and without privacy."""
from dataclasses import replace

from strategies.batch_plans import poisson_batches
from fedsim.studies.study import Arm, Study
from privacy import dp_sgd, error_feedback
from scenarios.digits_quickstart import scenario as digits


def private(mechanism):
    plan = poisson_batches(steps=2, sampling_prob=0.2)
    return replace(digits(rounds=4), plan=plan, mechanism=mechanism, evaluate_every=2)


def study(*, seeds: int = 1) -> Study:
    """Three arms."""
    worlds = {
        "plain": digits(rounds=4),
        "DP-SGD, quiet": private(dp_sgd(noise_multiplier=1.0)),
        "DP-SGD, loud": private(dp_sgd(noise_multiplier=3.0)),
        "DiceSGD": private(error_feedback(noise_multiplier=1.0)),
    }
    arms = tuple(Arm(name=k, scenario=v) for k, v in worlds.items())
    return Study(paper="none", setting="digits", arms=arms, seeds=seeds)
'''


ALONE = SCRIPT.replace(
    "def study(*, seeds: int = 1) -> Study:", "def scenario(*, z: float = 2.0):"
).replace(
    '    """Three arms."""\n', '    """One."""\n    return private(dp_sgd(noise_multiplier=z))\n'
)


@pytest.mark.slow
def test_a_study_reports_and_plots_what_each_arm_has_spent(tmp_path, capsys):
    script = tmp_path / "study_of_noise.py"
    script.write_text(SCRIPT)
    out = tmp_path / "out"
    assert main(["run", str(script), "--out", str(out), "--workers", "1"]) == 0
    rows = {row["arm"]: row for row in json.loads((out / "study.json").read_text())["table"]}
    assert rows["plain"]["epsilon"] is None
    assert 0 < rows["DP-SGD, loud"]["epsilon"] < rows["DP-SGD, quiet"]["epsilon"]
    ledger = out / "dp-sgd-quiet/seed-1/ledger.jsonl"
    assert read_account(ledger, 1e-5).exactly() == rows["DP-SGD, quiet"]["epsilon"]
    table = (out / "study.md").read_text()
    assert "epsilon at delta 1e-05" in table
    assert "| no guarantee |" in table
    assert (out / "utility.png").stat().st_size > 10_000
    assert (out / "dp-sgd-loud/seed-1/plots/utility.png").exists()
    assert not (out / "plain/seed-1/plots/utility.png").exists()
    assert "no guarantee" in capsys.readouterr().out


def test_a_private_run_prints_its_budget_its_unit_and_whom_it_protects_from(tmp_path, capsys):
    script = tmp_path / "mine.py"
    script.write_text(ALONE)
    out = tmp_path / "run"
    assert main(["run", str(script), "--out", str(out), "--workers", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())  # lines are folded
    epsilon = read_metrics(out)[-1]["epsilon"]
    assert f"epsilon {math.ceil(1000 * epsilon) / 1000:g} at delta 1e-05, zero-out" in said
    assert "each example from the server, other clients" in said
    assert "each client, in every local step" in said


# --- the scenarios -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_client_of_a_dp_scenario_stays_within_its_budget(tmp_path, real_data):
    out = tmp_path / "run"
    knobs = ["--population", "20", "--cohort", "10", "--rounds", "2", "--epsilon", "5"]
    command = ["run", "dp_clients_femnist", *knobs, "--data-dir", str(real_data)]
    assert main([*command, "--out", str(out), "--workers", "1"]) == 0
    assert 4.99 < read_metrics(out)[-1]["epsilon"] <= 5


@pytest.mark.parametrize(
    ("name", "arms"),
    [
        pytest.param("dp_correlated", 13, marks=pytest.mark.slow),
        ("dp_error_feedback", 12),
        pytest.param("dp_fedsvd", 9, marks=pytest.mark.slow),
    ],
)
def test_the_arms_of_a_dp_study_can_be_run(name, arms):
    from fedsim.runs.catalogue import find_script

    study = find_script(name).build()
    assert len(study.arms) == arms
    for arm in study.arms:
        check_scenario(arm.scenario, Settings())


@pytest.mark.slow
def test_dp_sgd_reaches_80_percent_on_fashion_mnist_at_epsilon_3(tmp_path, real_data):
    out = tmp_path / "run"
    assert main(["run", "dp_fashion_mnist", "--data-dir", str(real_data), "--out", str(out)]) == 0
    last = read_metrics(out)[-1]
    assert last["test_accuracy"] >= 0.80
    assert last["epsilon"] <= 3
    assert read_account(out / "ledger.jsonl", 1e-5).exactly() == last["epsilon"]


def test_a_plan_of_poisson_batches_is_needed_for_a_poisson_claim():
    # the same noise on shuffled batches is charged without amplification, and never as Poisson
    private = dp_sgd(noise_multiplier=1.0, delta=DELTA)
    shuffled = clients(
        mechanism=private,
        cohort=10,
        selection=client_selection.uniform(),
        plan=batch_plans.shuffled_epochs(epochs=1, batch_size=1),
    )
    drawn = replace(shuffled, plan=batch_plans.poisson_batches(steps=4, sampling_prob=0.25))
    without = account([Gaussian(mu=1.0, count=5)], DELTA).epsilon
    assert forecast(shuffled)["epsilon"] == pytest.approx(without)
    assert forecast(drawn)["epsilon"] < without


@pytest.mark.parametrize("name", ["dp_sgd quantile", "error_feedback", "blt steps", "client_dp"])
def test_on_flowers_wire_the_model_is_that_of_our_own_loop(name, flower_identity):
    from fedsim.testing.world import direct, model_after, over_grid, over_wire, world
    from strategies import scaffold
    from strategies.step_rules import sgd
    from tests.helpers.mechanisms import MECHANISMS

    parts = {key: part for key, part in MECHANISMS[name].parts(1.0).items() if part is not None}
    here = model_after(world(scaffold(steps=sgd(0.1)), **parts), direct)
    for reach in (over_grid, over_wire):
        there = model_after(world(scaffold(steps=sgd(0.1)), **parts), reach)
        for key, value in here.items():
            torch.testing.assert_close(there[key], value, rtol=1e-5, atol=1e-5)


# --- what must not happen twice, or unseen -------------------------------------------------------


def test_repeated_work_gets_fresh_noise():
    from fedsim.server.round import begin, plan_round
    from fedsim.testing import direct
    from tests.helpers.mechanisms import MECHANISMS

    for name in ("nu_ftrl steps", "banded steps", "blt steps", "dp_sgd", "error_feedback"):
        world = prepare(
            clients(
                selection=client_selection.uniform(),
                cohort=10,
                **MECHANISMS[name].parts(1e6),  # noise and nothing else
            ),
            Settings(width=5, workers=1),
        )
        held, exchange = begin(world), direct(world)
        seen = []
        for round_num in (1, 2):  # the server rejected every reply of round 1
            work = plan_round(world, held, round_num, {}, exchange)
            replies = [part for part in exchange(work) if part.update is not None]
            seen.append(torch.cat([part.update.diff["1.weight"].flatten() for part in replies]))
        alike = torch.corrcoef(torch.stack(seen))[0, 1]
        assert abs(float(alike)) < 5 / len(seen[0]) ** 0.5


def finished(tmp_path):
    """A run that is done: its command and its folder."""
    script, out = tmp_path / "mine.py", tmp_path / "run"
    script.write_text(ALONE)
    command = ["run", str(script), "--out", str(out), "--workers", "1"]
    assert main(command) == 0
    return command, out


def test_a_truncated_ledger_is_detected_on_resuming(tmp_path, capsys):
    command, out = finished(tmp_path)
    ledger = out / "ledger.jsonl"
    whole = ledger.read_text().splitlines(keepends=True)
    assert (
        json.loads(whole[-1])["seal"]
        == json.loads((out / "summary.json").read_text())["privacy"]["seal"]
    )
    ledger.write_text("".join(whole[:-1]))
    assert main([*command, "--resume"]) == 2
    assert "ledger.jsonl must end as the checkpoint" in capsys.readouterr().err


def test_a_resealed_ledger_is_detected_on_resuming_and_not_changed(tmp_path, capsys):
    command, out = finished(tmp_path)
    entries, _ = read_ledger(out / "ledger.jsonl")
    louder = [replace(entry, noise_std=2 * entry.noise_std) for entry in entries]
    more = replace(louder[-1], round=louder[-1].round + 1)
    (out / "ledger.jsonl").write_text(sealed([*louder, more])[0])
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert main([*command, "--resume"]) == 2
    assert "ledger.jsonl must end as the checkpoint" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_budget_too_small_for_one_round_leaves_no_folder(tmp_path, capsys, real_data):
    out = tmp_path / "run"
    knobs = [
        "--noise-multiplier",
        "0.5",
        "--epsilon",
        "0.001",
        "--population",
        "20",
        "--cohort",
        "5",
    ]
    command = ["run", "dp_clients_femnist", *knobs, "--out", str(out)]
    assert main([*command, "--data-dir", str(real_data)]) == 2
    assert "round 1 would take epsilon to" in capsys.readouterr().err
    assert not out.exists()


def test_a_selection_that_selects_a_client_twice_is_reported():
    from fedsim.server.round import begin, plan_round
    from fedsim.testing import direct

    twice = replace(client_selection.uniform(), choose=lambda state, draw: ([3, 3], state))
    world = prepare(clients(selection=twice), Settings(width=5, workers=1))
    with pytest.raises(ValueError, match="a cohort has each client once"):
        plan_round(world, begin(world), 1, {}, direct(world))
