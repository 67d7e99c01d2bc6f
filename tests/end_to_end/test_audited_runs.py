"""Audits of whole runs with canaries: correct mechanisms are CONSISTENT, planted bugs VIOLATED."""

import json

import pytest

from fedsim.cli import main
from fedsim.models.tasks import classification
from fedsim.models.vision import mlp
from fedsim.runs.description import describe
from fedsim.runs.runner import record_run
from fedsim.testing import direct
from privacy import client_dp, dp_sgd
from privacy.auditing.run.report import audit
from scenarios.shared.audit_columns import answers, draw
from scenarios.studies import audit_broken
from scenarios.studies.audit_broken import CLIP
from strategies import batch_plans
from tests.fedsim.canaries.test_canaries import clients, examples
from tests.helpers.mechanisms import MECHANISMS, opened, several_rounds

pytestmark = pytest.mark.slow  # whole runs and their audits: a minute of CPU


@pytest.fixture
def folder(tmp_path, watcher, no_pictures):
    """A function that runs a scenario and gives its folder."""

    def run(scenario, name="run", seed=1):
        prepared, out = opened(scenario, seed), tmp_path / name
        description = describe(name, {}, prepared, "cohort")
        record_run(prepared, description, direct(prepared), [watcher], out=out)
        return out

    return run


QUICK = ("dp_sgd", "client_dp quantile", "correlated_noise")
AUDITED = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in MECHANISMS
    if name != "client_dp fixed"
]


@pytest.mark.parametrize("name", AUDITED)
def test_a_correct_mechanism_is_not_a_violation(name, folder):
    case = MECHANISMS[name]
    whole = (
        {"plan": batch_plans.ordered_epochs(epochs=1, batch_size=32)}
        if case.kind == "ordered"
        else {}
    )
    scenario = several_rounds(case, z=1.0, canaries=40, rounds=4, **whole)
    found = audit(folder(scenario)).claimed.audit
    without = name == "error_feedback"  # without a guarantee, that is
    assert found.verdict.code == (4 if without else 0), found.verdict.reason
    assert found.canaries == 40
    assert len(found.bounds) == 2
    assert (found.quiet is None) == (name == "batch_clipping")
    assert found.quiet is None or found.quiet.passed


def correct(level):
    if level == "example":
        return dp_sgd(noise_multiplier=1.0, clip=CLIP)
    return client_dp(noise_multiplier=1.0, clip=CLIP)


def half(level):
    make = dp_sgd if level == "example" else client_dp
    return audit_broken.charged_as(correct(level), make(noise_multiplier=0.5, clip=CLIP))


BUGS = {
    "example, half the noise": ("example", half("example")),
    "example, no clip": ("example", audit_broken.without_example_clip(correct("example"), 1.0)),
    "example, empty batches": ("example", audit_broken.without_empty_batches(correct("example"))),
    "client, half the noise": ("client", half("client")),
    "client, no clip": ("client", audit_broken.without_client_clip(correct("client"))),
}


@pytest.mark.parametrize("name", BUGS)
def test_every_planted_bug_is_a_violation(name, folder):
    level, broken = BUGS[name]
    make = examples if level == "example" else clients
    found = audit(folder(make(mechanism=broken, canaries=60, rounds=10)))
    assert found.exit_code == 3
    assert found.claimed.audit.claim.epsilon is not None


def test_skipped_empty_rounds_are_named(folder):
    broken = audit_broken.without_empty_rounds(correct("client"))
    out = folder(clients(mechanism=broken, canaries=10, rounds=40, cohort=1))
    rows = [json.loads(line) for line in (out / "canaries.jsonl").read_text().splitlines()]
    silent = tuple(row["round"] for row in rows if not any(row["seen"]))
    found = audit(out)
    assert silent
    assert found.exit_code == 3
    assert found.claimed.audit.quiet.silent == silent
    assert f"too little in round {silent[0]}" in found.verdict


def test_a_run_with_too_few_canaries_is_inconclusive(folder):
    found = audit(folder(clients(1.0, canaries=5)))
    assert found.exit_code == 5
    assert found.verdict.startswith("INCONCLUSIVE")


def test_a_lower_bound_comes_near_a_large_claim(folder):
    # full participation: only the coins are secret, and nearly all guesses are right
    task = classification("wide", lambda: mlp(5, 200, 3))
    scenario = clients(0.7, canaries=400, rounds=8, cohort=6, task=task)
    found = audit(folder(scenario)).claimed.audit
    plain = next(bound for bound in found.bounds if not bound.hypothesis)
    assert plain.ceiling is not None
    assert 0.8 * plain.ceiling < plain.epsilon < found.claim.epsilon


SCRIPT = '''
from dataclasses import replace
from strategies.batch_plans import poisson_batches
from privacy import dp_sgd
from scenarios.digits_quickstart import scenario as digits


def scenario(*, rounds: int = 2):
    """The digits of four clients, every image protected."""
    return replace(
        digits(population=4, cohort=4, rounds=rounds),
        plan=poisson_batches(steps=1, sampling_prob=0.2),
        mechanism=dp_sgd(noise_multiplier=1.0),
    )
'''


def test_canaries_are_an_option_of_every_private_scenario(tmp_path, capsys):
    script, out = tmp_path / "private.py", tmp_path / "out"
    script.write_text(SCRIPT)
    alone = ["--width", "4", "--workers", "1"]
    assert main(["run", str(script), "--canaries", "30", "--out", str(out), *alone]) == 0
    capsys.readouterr()  # the run's own summary
    assert main(["audit", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["canaries"] == 30
    assert found["wiring"][0]["claimed"] == 1.0
    assert json.loads((out / "run.json").read_text())["canaries"] == 30
    assert main(["run", str(script), "--canaries", "-1", "--out", str(tmp_path / "no")]) == 2
    assert "canaries must be at least 0; got -1" in capsys.readouterr().err
    assert main(["run", "digits_quickstart", "--canaries", "3", "--out", str(tmp_path / "no")]) == 2
    assert "canaries must be left out where nothing is private" in capsys.readouterr().err


def test_a_study_reads_audits_and_draws_them(folder, tmp_path):
    found = {
        "correct": {1: answers(folder(clients(1.0, canaries=60), "one"))},
        "no guarantee": {1: answers(folder(several_rounds(MECHANISMS["error_feedback"]), "two"))},
    }
    assert found["correct"][1]["verdict"] == "consistent"
    assert found["correct"][1]["noise"] == pytest.approx(1, abs=0.3)
    assert found["no guarantee"][1]["verdict"] == "unsupported"
    assert found["no guarantee"][1]["claimed"] is None
    draw(tmp_path, found)
    assert (tmp_path / "audit.png").stat().st_size > 10_000
