"""The rules of accounting, and the inputs on which accountants give wrong numbers or hang."""

import json
import math
from dataclasses import replace

import pytest

from fedsim.cli import main
from fedsim.core.errors import InputError, PrivacyError
from fedsim.core.ledger import Entry, read_ledger, sealed
from fedsim.runs.description import describe
from fedsim.runs.folder import RunFolder, read_metrics
from fedsim.runs.loop import simulate
from fedsim.server.round import begin, ledger_entries
from privacy import (
    batch_clipping,
    client_dp,
    correlated_dp_sgd,
    correlated_noise,
    dp_sgd,
    error_feedback,
    local_dp,
)
from privacy.accounting import FixedSize, Gaussian, PoissonGaussian, account, epsilon, pld
from privacy.matrix_factorization import nu_ftrl
from privacy.mechanisms.readers import ledger_account, read_account
from strategies import batch_plans
from tests.helpers.mechanisms import MECHANISMS, Killer, Stopped, opened, run_into, several_rounds

NU = nu_ftrl(0.1, rounds=4)
MAKERS = {
    "dp_sgd": dp_sgd,
    "batch_clipping": batch_clipping,
    "error_feedback": error_feedback,
    "client_dp": client_dp,
    "local_dp": local_dp,
    "correlated_noise": lambda **given: correlated_noise(NU, **given),
    "correlated_dp_sgd": lambda **given: correlated_dp_sgd(NU, **given),
}
CLIP = {"batch_clipping": "clip_norm", "error_feedback": "clip_norm"}
NAN, INF = math.nan, math.inf


def grids_built():
    """How many distributions of privacy losses have been built so far."""
    return pld._one.cache_info().misses + pld.composed.cache_info().misses


def refused_at_once(error, wrong):
    """One line, before any accountant is called (some would hang here), and never a number."""
    before = grids_built()
    with pytest.raises(error, match=r"must be .*; got .*\.") as refused:
        wrong()
    assert grids_built() == before
    assert "\n" not in str(refused.value)


# --- what mechanisms, plans and accountants refuse -----------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("z", [0.0, -1.0, NAN, INF, -INF])
def test_a_noise_multiplier_is_a_finite_number_above_0(name, z):
    refused_at_once(PrivacyError, lambda: MAKERS[name](noise_multiplier=z))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("clip_norm", [0.0, -1.0, NAN, INF])
def test_a_clip_norm_is_a_finite_number_above_0(name, clip_norm):
    given = {CLIP.get(name, "clip"): clip_norm, "noise_multiplier": 1.0}
    refused_at_once(PrivacyError, lambda: MAKERS[name](**given))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 1.5, NAN, INF])
def test_a_delta_is_between_0_and_1(name, delta):
    refused_at_once(PrivacyError, lambda: MAKERS[name](noise_multiplier=1.0, delta=delta))


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, INF])
def test_the_norms_of_error_feedback_are_finite_numbers_above_0(value):
    for name in ("feedback_norm", "largest"):
        given = {name: value}
        refused_at_once(PrivacyError, lambda g=given: error_feedback(noise_multiplier=1.0, **g))


@pytest.mark.parametrize("prob", [0.0, -0.1, 1.5, NAN, INF])
def test_a_sampling_probability_is_above_0_and_at_most_1(prob):
    refused_at_once(InputError, lambda: batch_plans.poisson_batches(steps=1, sampling_prob=prob))


@pytest.mark.parametrize("steps", [0, -5])
def test_a_plan_has_steps(steps):
    refused_at_once(InputError, lambda: batch_plans.poisson_batches(steps=steps, sampling_prob=0.5))
    refused_at_once(InputError, lambda: batch_plans.ordered_epochs(epochs=steps, batch_size=4))
    refused_at_once(InputError, lambda: batch_plans.ordered_epochs(epochs=1, batch_size=steps))


GOOD = {"sampling_prob": 0.01, "noise_multiplier": 1.0, "count": 10}


@pytest.mark.parametrize(
    "change",
    [
        *({"noise_multiplier": z} for z in (-1.0, NAN, INF)),
        *({"sampling_prob": q} for q in (-0.1, 1.5, NAN)),
        *({"count": count} for count in (-5, 2.5, NAN)),
        {"overflow": 1.5},
    ],
    ids=str,
)
def test_no_accountant_is_asked_about_what_cannot_be(change):
    refused_at_once(PrivacyError, lambda: epsilon([PoissonGaussian(**(GOOD | change))], 1e-5))


@pytest.mark.parametrize("delta", [0.0, 1.0, 10.0, -1e-5, NAN])
def test_no_account_is_given_at_such_a_delta(delta, tmp_path):
    events = [PoissonGaussian(**GOOD)]
    refused_at_once(PrivacyError, lambda: epsilon(events, delta))
    refused_at_once(PrivacyError, lambda: account(events, delta))
    (tmp_path / "ledger.jsonl").touch()
    refused_at_once(PrivacyError, lambda: read_account(tmp_path / "ledger.jsonl", delta))


# --- the ten rules, through the ledger -----------------------------------------------------------


def entry(sampler, **more):
    given = {
        "round": 1,
        "unit": "example",
        "relation": "zero_out",
        "mechanism": "gaussian",
        "sampler": sampler,
        "sensitivity": 1.0,
        "noise_std": 1.0,
        "noise_multiplier": 1.0,
        "clients": (0,),
    }
    return Entry(**(given | more))


def poisson(q, z, steps):
    sampler = {"kind": "poisson", "sampling_prob": q, "overflow": 0.0}
    return entry(sampler, noise_multiplier=z, noise_std=z, steps=steps)


def spent(*entries, delta=1e-5):
    return ledger_account(delta).charge(entries).exactly()


def test_nothing_released_costs_exactly_nothing():
    """Rule 1: opacus says 0.1029 for no steps, and for nobody sampled."""
    assert spent() == 0.0
    assert ledger_account(0.5).epsilon() == 0.0
    assert spent(poisson(0.0, 1.0, 10)) == 0.0


@pytest.mark.parametrize("delta", [0.5, 0.999, 1e-15])
def test_epsilon_is_never_below_0(delta):
    """Rules 1 and 9: some libraries answer -0.69."""
    assert 0 <= spent(poisson(0.01, 1.0, 10), delta=delta) < 1e3


def test_no_limit_theorem_is_taken_for_a_guarantee():
    """Rule 2: the central limit would say 0.5217, and the truth is 1.5901."""
    assert spent(poisson(0.001, 0.7, 2000), delta=1e-7) == pytest.approx(1.5901, rel=2e-3)


def test_shuffled_batches_are_not_taken_for_poisson():
    """Rule 3: Poisson would say 0.1855; the truth is at least 3.7239 and at most 4.8866."""
    shuffled = entry({"kind": "shuffled", "passes": 1, "batches": 1000}, steps=1000)
    report = ledger_account(1e-6).charge([shuffled]).report()
    assert report.epsilon == pytest.approx(4.886554, abs=1e-5)
    assert report.lower == pytest.approx(3.723891, abs=1e-4)
    assert spent(poisson(0.001, 1.0, 1000), delta=1e-6) == pytest.approx(0.1855, abs=1e-3)


def test_cohorts_of_fixed_size_are_not_taken_for_poisson():
    """Rule 4: as replace-one, at half of the multiplier that the clip norm alone would give."""
    scenario = several_rounds(MECHANISMS["client_dp fixed"], z=4.0)
    (history,) = ledger_account(1e-5).charge(_charged(scenario)).histories()
    assert history == [FixedSize(population=6, cohort=4, noise_multiplier=4.0, count=1)]
    whole = replace(scenario, cohort=6)
    assert ledger_account(1e-5).charge(_charged(whole)).exactly() >= 0.98 * _gaussian(2 / 4.0)


def _charged(scenario):
    prepared = opened(scenario)
    cohort = range(scenario.cohort)
    return ledger_entries(prepared, begin(prepared), 1, list(cohort))


def _gaussian(mu):
    return account([Gaussian(mu=mu)], 1e-5).epsilon


def test_replacing_a_clients_message_is_twice_the_clip_norm():
    """Rule 8: mu = 2 / z; at z = 2, 4.377 where a well-known accountant says 2.166."""
    entries = _charged(several_rounds(MECHANISMS["local_dp"], z=2.0))
    assert ledger_account(1e-5).charge(entries).exactly() == pytest.approx(4.377178, abs=1e-6)


@pytest.mark.parametrize(
    ("sigma", "epochs", "expected"), [(2, 10, 7.51127590), (10, 50, 2.94322524)]
)
def test_batch_clipping_has_the_values_of_its_theorem(sigma, epochs, expected):
    """arXiv:2212.05796: mu = sqrt(E) / sigma, whatever the number of batches."""
    for batches in (1, 30):
        made = replace(
            several_rounds(MECHANISMS["batch_clipping"], z=float(sigma), sizes=(30,) * 6),
            plan=batch_plans.shuffled_epochs(epochs=epochs, batch_size=30 // batches),
        )
        assert ledger_account(1e-5).charge(_charged(made)).exactly() == pytest.approx(
            expected, abs=1e-6
        )


def test_feedback_is_not_amplified_by_sampling():
    """Rule 10: the sampling probability is in no number."""
    spendings = []
    for prob in (0.01, 0.9):
        plan = batch_plans.poisson_batches(steps=2, sampling_prob=prob)
        scenario = several_rounds(MECHANISMS["error_feedback with G"], z=9.0, plan=plan)
        spendings.append(ledger_account(1e-5).charge(_charged(scenario)).exactly())
    assert spendings[0] == spendings[1]


def test_a_kind_of_release_that_nobody_knows_has_no_guarantee():
    for unknown in (
        entry({"kind": "replacement"}),
        entry({"kind": "chosen"}),
        entry({"kind": "poisson", "sampling_prob": 0.1}, mechanism="homemade"),
    ):
        assert spent(unknown) is None
        assert spent(poisson(0.01, 1.0, 10), unknown) is None
        assert ledger_account(1e-5).charge([unknown]).epsilon() is None


# --- the budget ----------------------------------------------------------------------------------


def world(name="dp_sgd", **changes):
    return several_rounds(MECHANISMS[name], z=4.0, **({"rounds": 4} | changes))


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory):
    """What each round of the small world has spent, without a budget."""
    path = tmp_path_factory.mktemp("unlimited") / "run"
    run_into(path, world())
    entries, _ = read_ledger(path / "ledger.jsonl")
    upto = [[e for e in entries if e.round <= r] for r in range(1, 5)]
    return [ledger_account(1e-5).charge(some).exactly() for some in upto]


def test_a_run_stops_before_its_budget_would_be_exceeded_and_says_so(tmp_path, unlimited):
    budget = (unlimited[1] + unlimited[2]) / 2
    finished = run_into(tmp_path / "run", world(budget=budget))
    rows, (entries, _) = read_metrics(tmp_path / "run"), read_ledger(tmp_path / "run/ledger.jsonl")
    assert [row["round"] for row in rows] == [1, 2]
    assert {e.round for e in entries} == {1, 2}  # nothing of the round that was not begun
    assert finished.account.exactly() == unlimited[1] <= budget
    assert finished.stopped.startswith("round 3 would take epsilon to ")
    assert f"above the budget of {budget:g}" in finished.stopped
    assert "test_loss" in rows[-1]
    again = run_into(tmp_path / "run", world(budget=budget), resume=True)
    assert again.stopped == finished.stopped
    assert read_metrics(tmp_path / "run") == rows
    assert read_ledger(tmp_path / "run/ledger.jsonl")[0] == entries


def test_a_budget_that_is_just_enough_is_enough(tmp_path, unlimited):
    """The quick counter may be half a percent too high; then the exact one decides."""
    finished = run_into(tmp_path / "run", world(budget=unlimited[-1]))
    assert finished.stopped is None
    assert len(finished.metrics) == 4


def test_a_run_killed_before_its_budget_ended_stops_where_it_would_have(tmp_path, unlimited):
    budget = (unlimited[1] + unlimited[2]) / 2
    with pytest.raises(Stopped):
        run_into(tmp_path / "run", world(budget=budget), last=1)
    assert run_into(tmp_path / "run", world(budget=budget), resume=True).stopped
    assert [row["round"] for row in read_metrics(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize("budget", [0.0, -1.0, NAN, INF])
def test_a_budget_is_a_finite_number_above_0(budget):
    refused_at_once(InputError, lambda: opened(world(budget=budget)))


def test_a_budget_cannot_be_kept_without_a_guarantee(tmp_path):
    with pytest.raises(PrivacyError, match="cannot be kept, as there is no guarantee"):
        run_into(tmp_path / "run", world("error_feedback", budget=100.0))
    assert (tmp_path / "run/ledger.jsonl").read_text() == ""


SCRIPT = '''
"""Digits under DP-SGD."""
from dataclasses import replace
from strategies.batch_plans import poisson_batches
from privacy import dp_sgd
from scenarios.digits_quickstart import scenario as digits

def scenario(*, rounds: int = 4, noise: float = 4.0):
    made = digits(rounds=rounds, cohort=8, population=16)
    plan = poisson_batches(steps=2, sampling_prob=0.2)
    return replace(made, plan=plan, mechanism=dp_sgd(noise_multiplier=noise))
'''


@pytest.fixture
def script(tmp_path):
    (tmp_path / "private_digits.py").write_text(SCRIPT)
    return str(tmp_path / "private_digits.py")


def said(capsys, *arguments):
    code = main([*arguments, "--workers", "1", "--width", "4"])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_a_plan_says_what_the_run_will_spend_and_the_last_round_that_a_budget_allows(
    script, tmp_path, capsys
):
    code, out, _ = said(capsys, "plan", script, "--json", "--seed", "3")
    planned = json.loads(out)
    assert (code, planned["last_round"], planned["delta"]) == (0, 4, 1e-5)
    run = str(tmp_path / "run")
    code, out, _ = said(capsys, "run", script, "--json", "--seed", "3", "--out", run)
    summary = json.loads(out)
    assert code == 0
    assert summary["privacy"]["epsilon"] == planned["epsilon"]
    assert summary["stopped"] is None
    assert read_account(tmp_path / "run/ledger.jsonl", 1e-5).exactly() == planned["epsilon"]
    for row in read_metrics(tmp_path / "run"):
        told = planned["epsilon_after"][str(row["round"])]
        assert row["epsilon"] == pytest.approx(told, rel=5e-3)

    after = planned["epsilon_after"]
    budget = str((after["1"] + after["2"]) / 2) if after["1"] < after["2"] else str(after["2"])
    code, out, _ = said(capsys, "plan", script, "--json", "--seed", "3", "--epsilon", budget)
    short = json.loads(out)
    assert code == 0
    cut = str(tmp_path / "cut")
    given = ["--json", "--seed", "3", "--out", cut, "--epsilon", budget]
    code, out, _ = said(capsys, "run", script, *given)
    summary = json.loads(out)
    assert code == 0
    assert summary["rounds"] == short["last_round"] < 4
    assert summary["privacy"]["epsilon"] == short["epsilon"] <= float(budget)
    assert summary["stopped"].startswith(f"round {short['last_round'] + 1} would take epsilon")
    assert json.loads((tmp_path / "cut/summary.json").read_text())["stopped"] == summary["stopped"]


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_budget_that_allows_no_round_is_refused_with_exit_code_2(
    script, tmp_path, capsys, command
):
    more = ["--out", str(tmp_path / "out")] if command == "run" else []
    code, out, err = said(capsys, command, script, "--epsilon", "0.0001", *more)
    assert (code, out) == (2, "")
    line = err.strip().splitlines()[-1]
    assert "round 1 would take epsilon to" in line
    assert "above the budget of 0.0001. Use a larger --epsilon, or more noise." in line
    if command == "run":
        assert not (tmp_path / "out/summary.json").exists()


# --- the ledger keeps what was spent -------------------------------------------------------------


def written(path):
    entries = [replace(poisson(0.1, 2.0, steps), round=steps) for steps in (1, 2, 3, 4)]
    lines, seal = sealed(entries)
    path.write_text(lines)
    return entries, seal, lines.splitlines(keepends=True)


def test_a_ledger_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "ledger.jsonl"
    entries, seal, _ = written(path)
    assert read_ledger(path) == (entries, seal)


EDITS = {
    "edited": lambda lines: [*lines[:1], lines[1].replace('"steps": 2', '"steps": 1'), *lines[2:]],
    "noise edited": lambda lines: [lines[0].replace("2.0", "9.0", 1), *lines[1:]],
    "the first cut": lambda lines: lines[1:],
    "one in the middle cut": lambda lines: [*lines[:1], *lines[2:]],
    "two swapped": lambda lines: [lines[1], lines[0], *lines[2:]],
    "one repeated": lambda lines: [*lines[:2], *lines[1:]],
    "one added": lambda lines: [*lines, lines[0]],
    "not JSON": lambda lines: [*lines[:2], "nonsense\n", *lines[2:]],
    "a list": lambda lines: [*lines, "[1, 2]\n"],
    "no seal": lambda lines: [*lines[:3], '{"round": 4}\n'],
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_ledger_that_anybody_changed_is_found_out(tmp_path, edit):
    path = tmp_path / "ledger.jsonl"
    _, _, lines = written(path)
    path.write_text("".join(EDITS[edit](lines)))
    with pytest.raises(InputError, match=r"ledger: line \d must be as the run wrote it"):
        read_ledger(path)


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    path = tmp_path / "ledger.jsonl"
    entries, _, lines = written(path)
    path.write_text("".join([*lines[:3], lines[3][:40]]))
    assert read_ledger(path)[0] == entries[:3]


def test_a_changed_ledger_stops_a_resume(tmp_path):
    with pytest.raises(Stopped):
        run_into(tmp_path / "run", world(), last=2)
    path = tmp_path / "run/ledger.jsonl"
    path.write_text(path.read_text().replace('"steps": 2', '"steps": 1', 1))
    with pytest.raises(InputError, match="ledger: line 1 must be as the run wrote it"):
        run_into(tmp_path / "run", world(), resume=True)


def test_a_round_is_in_the_ledger_before_it_is_worked_on(tmp_path):
    """Killed in the middle of a round, what it may have released is charged already."""
    prepared, path = opened(world()), tmp_path / "run"

    def exchange(work):
        raise Stopped

    folder = RunFolder.create(path, describe("small", {}, prepared, "cohort"))
    with pytest.raises(Stopped):
        simulate(prepared, exchange, folder, [Killer(-1)])
    folder.close()
    assert {e.round for e in read_ledger(path / "ledger.jsonl")[0]} == {1}
    assert read_metrics(path) == []
