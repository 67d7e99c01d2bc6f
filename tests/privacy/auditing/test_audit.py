"""`fedsim audit`: a run's claim from its own folder, and what is said where it does not hold."""

import json
from dataclasses import replace

import pytest

from fedsim.cli import main
from fedsim.core.ledger import read_ledger
from fedsim.core.settings import Settings
from fedsim.runs.description import describe
from fedsim.runs.folder import read_metrics
from fedsim.runs.runner import run_prepared
from fedsim.server.setup import prepare
from privacy import client_dp, dp_sgd, error_feedback, local_dp, none
from privacy.accounting import Gaussian, PoissonGaussian, account
from privacy.auditing.run.claim import claimed
from privacy.auditing.run.report import audit
from privacy.mechanisms.clipping import quantile
from strategies import batch_plans, client_selection
from strategies.aggregators import mean
from tests.end_to_end.test_private_runs import clients


@pytest.fixture
def folder(tmp_path, watcher, no_pictures):
    """A function that runs a scenario and gives its folder."""

    def run(scenario, name="run"):
        out = tmp_path / name
        prepared = prepare(scenario, Settings(width=5, workers=1))
        run_prepared(prepared, describe(name, {}, prepared, "cohort"), [watcher], out=out)
        return out

    return run


def as_json(capsys, *arguments):
    code = main(["audit", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_claim_is_recomputed_from_the_ledger_and_drawn(folder, capsys):
    out = folder(clients(rounds=8))
    code, found = as_json(capsys, out)
    expected = account(
        [PoissonGaussian(sampling_prob=0.4, noise_multiplier=1.0, count=8)], found["claim"]["delta"]
    )
    assert code == found["exit_code"] == 0
    assert found["claim"]["epsilon"] == expected.epsilon
    assert found["verdict"].startswith("CONSISTENT")
    assert (found["unit"], found["relation"], found["rounds"]) == ("client", "zero_out", [8, 8])
    assert found["others"]["Opacus RDP"] > found["claim"]["epsilon"]
    assert 0 < found["kappa"] == pytest.approx(found["tv"] / 2**0.5)
    assert (out / "plots/audit.png").stat().st_size > 10_000
    # and it does not ask the summary
    (out / "summary.json").unlink()
    assert audit(out).claimed.report.epsilon == expected.epsilon


def test_another_delta_gives_another_epsilon(folder, capsys):
    out = folder(clients())
    (_, ours), (_, theirs) = as_json(capsys, out), as_json(capsys, out, "--delta", "1e-8")
    assert theirs["claim"]["delta"] == 1e-8
    assert theirs["claim"]["epsilon"] > ours["claim"]["epsilon"]


def test_what_people_read_names_unit_sampler_and_verdict(folder, capsys):
    out = folder(clients())
    assert main(["audit", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "client/zero_out poisson(sampling_prob=0.4)" in said
    assert "CLT (approximate, not a guarantee)" in said
    assert "CONSISTENT" in said
    assert "nothing was measured, and its claim is all there is" in said
    assert "which protects no one outside of a simulation" in said


def test_a_run_without_privacy_says_so_plainly(folder, capsys):
    out = folder(clients(mechanism=none()))
    code, found = as_json(capsys, out)
    assert code == 0
    assert found["private"] is False
    assert "NOT PRIVATE (nothing is protected" in " ".join(found["verdict"].split())
    assert not (out / "plots/audit.png").exists()


def test_what_has_no_guarantee_is_no_claim(folder, capsys):
    private = error_feedback(noise_multiplier=1.0)
    batches = batch_plans.poisson_batches(steps=2, sampling_prob=0.5)
    out = folder(clients(mechanism=private, plan=batches, selection=client_selection.uniform()))
    code, found = as_json(capsys, out)
    assert code == 4
    assert found["claim"]["epsilon"] is None
    assert found["verdict"].startswith("UNSUPPORTED")


def test_shuffled_batches_are_an_interval_and_a_warning(folder, capsys):
    private = dp_sgd(noise_multiplier=1.0, delta=1e-3)
    batches = batch_plans.shuffled_epochs(epochs=1, batch_size=1)
    made = clients(mechanism=private, plan=batches, selection=client_selection.uniform(), cohort=10)
    _, found = as_json(capsys, folder(made))
    assert found["claim"]["epsilon"] == account([Gaussian(mu=1.0, count=5)], 1e-3).epsilon
    assert found["at_least"] < found["claim"]["epsilon"]
    assert any("batches are not Poisson" in text for text in found["warnings"])


# --- folders that cannot be audited --------------------------------------------------------------


def edited(line):
    entry = json.loads(line)
    return json.dumps(entry | {"noise_multiplier": 2 * entry["noise_multiplier"]}) + "\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:2], edited(lines[2]), *lines[3:]], "line 3 must be as the run"),
        (lambda lines: [*lines[:1], *lines[2:]], "line 2 must be as the run"),
        (lambda lines: lines[:-1], "ledger.jsonl must go to the end of the run"),
        (lambda lines: [], "ledger.jsonl must go to the end of the run"),
    ],
    ids=["edited", "a line less", "cut off", "empty"],
)
def test_a_ledger_that_is_not_the_runs_is_a_wrong_input(folder, capsys, change, message):
    out = folder(clients())
    ledger = out / "ledger.jsonl"
    ledger.write_text("".join(change(ledger.read_text().splitlines(keepends=True))))
    assert main(["audit", str(out)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_no_run_or_a_delta_that_is_none_is_a_wrong_input(folder, tmp_path, capsys):
    assert main(["audit", str(tmp_path)]) == 2
    assert "must be of a run" in capsys.readouterr().err
    out = folder(clients())
    assert main(["audit", str(out), "--delta", "1.5"]) == 2
    assert "delta must be in (0, 1); got 1.5" in capsys.readouterr().err
    (out / "ledger.jsonl").unlink()
    assert main(["audit", str(out)]) == 2
    assert "must have its ledger.jsonl" in capsys.readouterr().err


def test_a_run_that_was_killed_can_be_audited(folder):
    out = folder(clients(rounds=6))
    for name in ("summary.json", "checkpoint/state.pt"):
        (out / name).unlink()
    for name in ("ledger.jsonl", "metrics.jsonl"):
        lines = (out / name).read_text().splitlines(keepends=True)
        (out / name).write_text("".join(lines[: 4 if name.startswith("ledger") else 3]))
    claim = claimed(out)  # four rounds were charged, of which three are in the metrics
    assert claim.rounds == (4, 6)
    event = PoissonGaussian(sampling_prob=0.4, noise_multiplier=1.0, count=4)
    assert claim.report.epsilon == account([event], claim.audit.claim.delta).epsilon


def test_a_killed_runs_ledger_that_was_emptied_is_a_wrong_input(folder, capsys):
    out = folder(clients())
    (out / "summary.json").unlink()
    (out / "ledger.jsonl").write_text("")
    assert main(["audit", str(out)]) == 2
    assert "ledger.jsonl must go to the end of the run" in capsys.readouterr().err


def test_a_run_that_ended_without_anybody_can_be_audited(folder):
    made = local_dp(noise_multiplier=1.0, delta=1e-3)
    world = clients(mechanism=made, aggregator=mean("uniform"), cohort=1, rounds=12)
    sizes = [row["cohort"] for row in read_metrics(folder(world, "whole"))]
    last = next(t for t in range(2, 13) if not sizes[t - 1])  # nothing is charged for it
    out = folder(replace(world, rounds=last), "cut")
    for _ in range(2):
        assert audit(out).exit_code == 0
        (out / "summary.json").unlink(missing_ok=True)


HARM = {
    "run.json": ("", "{", "[]", "null", "{}", '{"privacy": {"unit": "client"}}', "\udcff"),
    "summary.json": ("", "{", "[]", "null", "{}", '{"privacy": null}', "\udcff"),
    "metrics.jsonl": (
        "",
        "[]\n",
        "{}\n",
        '{"round": 1}\n',
        '{"round": "1", "cohort": 3}\n',
        "\udcff\n",
    ),
    "ledger.jsonl": ("[]\n", "{}\n", "\udcff\n"),
    "resumed.jsonl": ("[]\n", "{}\n", '{"after": 3}\n', '{"after": null, "until": 4}\n'),
}


def test_files_that_are_not_the_runs_are_wrong_inputs_one_by_one(folder, capsys):
    out = folder(clients())
    for name, contents in HARM.items():
        path = out / name
        before = path.read_bytes() if path.exists() else None
        for content in contents:
            path.write_bytes(content.encode(errors="surrogateescape"))
            assert main(["audit", str(out)]) == 2, (name, content)
            said = capsys.readouterr().err
            assert name.partition(".")[0] in said
            assert "Traceback" not in said
        if before is not None:
            path.write_bytes(before)


# --- was the sampler what the ledger says? -------------------------------------------------------


def test_a_claim_of_poisson_over_cohorts_of_one_size_is_not_supported(folder, capsys):
    made = clients(rounds=30)

    def fixed(state, drawn):
        return list(range(4)), state

    lied = replace(made.selection, choose=fixed)  # it says Poisson, and is not
    code, found = as_json(capsys, folder(replace(made, selection=lied)))
    assert code == 4
    assert "UNSUPPORTED" in found["verdict"]
    assert "sampler" in found["verdict"]


def test_a_fixed_cohort_is_of_its_size(folder, capsys):
    made = clients(selection=client_selection.uniform(), mechanism=client_dp(noise_multiplier=9.0))
    code, found = as_json(capsys, folder(made))
    assert code == 0
    assert found["relation"] == "replace"
    assert found["sampler"]["passed"] is True


# --- what a person should know -------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["client", "example"])
def test_a_moving_clip_norm_is_charged_for(folder, unit):
    """z = 1 with sigma_b = 2 leaves (1 - 1 / 16)^(-1/2) for the sum; z = 1 is charged."""
    rule = quantile(0.7, count_noise=2.0)
    made = clients(mechanism=client_dp(noise_multiplier=1.0, clip=rule))
    if unit == "example":
        batches = batch_plans.poisson_batches(steps=1, sampling_prob=0.5)
        private = dp_sgd(noise_multiplier=1.0, clip=rule)
        made = clients(mechanism=private, plan=batches, selection=client_selection.uniform())
    out = folder(made)
    entries, _ = read_ledger(out / "ledger.jsonl")
    assert {entry.details["update_noise"] for entry in entries} == {(1 - 1 / 16) ** -0.5}
    assert {entry.noise_multiplier for entry in entries} == {1.0}
    found = audit(out)
    assert found.exit_code == 0
    assert not any("adaptive" in text for text in found.claimed.audit.all_warnings)


def test_rounds_that_a_resumed_run_repeated_are_a_warning_however_often(folder, watcher):
    made = clients(rounds=4, selection=client_selection.cyclic())
    out = folder(made)

    def again():
        prepared = prepare(made, Settings(width=5, workers=1))
        description = describe("run", {}, prepared, "cohort")
        run_prepared(prepared, description, [watcher], out=out, resume=True)
        return [text for text in audit(out).claimed.audit.all_warnings if "resumed" in text]

    assert again() == []  # it was over: nothing is done twice
    for expected in ("rounds 1-4 were done twice", "rounds 1-4, 1-4 were done twice"):
        (out / "checkpoint/state.pt").unlink()
        (text,) = again()
        assert expected in text
