"""Whole runs: what they leave behind, resuming, repeating, and clients that fail."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from fedsim.cli import main
from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.runs.description import describe
from fedsim.runs.folder import RunFolder, read_metrics
from fedsim.runs.runner import run_prepared
from fedsim.server.setup import prepare
from privacy import dp_sgd
from strategies import batch_plans, client_selection, fedavg
from strategies.step_rules import sgd
from tests.helpers.worlds import remembering, small_world

DIGITS = ["run", "digits_quickstart", "--rounds", "4", "--cohort", "12"]


def start(out, watcher, *, resume=False, settings=None, **changes):
    """Run the small world into a folder; gives the summary."""
    prepared = prepare(small_world(**changes), settings or Settings(width=2))
    description = describe("small", {"some": 1}, prepared, "cohort")
    return run_prepared(prepared, description, [watcher], out=out, resume=resume).summary


def without_times(folder):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder)]


# --- what a run leaves behind --------------------------------------------------------------------


def test_a_run_leaves_the_folder_of_the_design(tmp_path, watcher):
    summary = start(tmp_path / "run", watcher)
    names = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*.*")}
    assert names == {
        "run.json",
        "metrics.jsonl",
        "ledger.jsonl",
        "summary.json",
        "clients.csv",
        "checkpoint/state.pt",
        "model.safetensors",
        "plots/curves.png",
        "plots/split.png",
        "plots/clients.png",
    }
    rows = read_metrics(tmp_path / "run")
    assert [row["round"] for row in rows] == [1, 2, 3]
    assert {
        "round",
        "seconds",
        "cohort",
        "bytes_down",
        "bytes_up",
        "train_loss",
        "test_loss",
        "test_accuracy",
        "clients",
    } <= rows[0].keys()
    assert summary["test_accuracy"] == rows[-1]["test_accuracy"]
    assert watcher.rows == rows
    description = json.loads((tmp_path / "run/run.json").read_text())
    assert {"scenario", "knobs", "settings", "versions", "data"} <= description.keys()
    assert "No privacy" in description["privacy"]["statement"]


def test_bytes_are_those_of_the_model_for_each_client(tmp_path, watcher):
    start(tmp_path / "run", watcher, rounds=1)
    (row,) = read_metrics(tmp_path / "run")
    model = 4 * (5 * 8 + 8 + 8 * 3 + 3)  # float32, the MLP of the small world
    assert row["bytes_up"] == 4 * model
    assert row["bytes_down"] == 4 * (model + 4)  # the round number travels with it


def test_a_stateful_run_remembers_only_what_was_accepted(tmp_path, watcher):
    """A client's memory goes into the next round; its first round is that of FedAvg."""
    for name, strategy in (("with", remembering(sgd(0.1))), ("without", fedavg(steps=sgd(0.1)))):
        start(tmp_path / name, watcher, strategy=strategy, cohort=6)
    first, second = (without_times(tmp_path / name) for name in ("with", "without"))
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_the_last_round_is_always_evaluated(tmp_path, watcher):
    start(tmp_path / "run", watcher, rounds=5, evaluate_every=2)
    tested = [r["round"] for r in read_metrics(tmp_path / "run") if "test_loss" in r]
    assert tested == [2, 4, 5]


def test_the_same_seed_gives_identical_metrics_apart_from_times(tmp_path, watcher):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        start(tmp_path / name, watcher, settings=Settings(seed=seed, width=2))
    assert without_times(tmp_path / "a") == without_times(tmp_path / "b")
    assert without_times(tmp_path / "a") != without_times(tmp_path / "c")


def test_a_poisson_round_without_anybody_is_a_round(tmp_path, watcher):
    nobody = client_selection.poisson()
    start(tmp_path / "run", watcher, selection=nobody, cohort=1, rounds=12, sizes=(4,) * 6)
    cohorts = [row["cohort"] for row in read_metrics(tmp_path / "run")]
    assert len(cohorts) == 12
    assert 0 in cohorts  # each round is empty with probability (5/6)^6 = 0.33
    assert max(cohorts) > 1


# --- clients that fail ---------------------------------------------------------------------------


def test_a_nan_client_is_left_out_counted_and_named_and_the_run_goes_on(tmp_path, watcher):
    sizes = (5, 5, 5, 5)
    summary = start(tmp_path / "run", watcher, poison=2, sizes=sizes, cohort=4, rounds=3)
    for row in read_metrics(tmp_path / "run"):
        assert row["rejected"] == {"2": "the update is not finite"}
        assert row["accepted"] == 3
    assert summary["rejected"] == {"2": 3}
    assert summary["test_accuracy"] > 0.5


def test_a_nan_client_does_not_move_the_others_model(tmp_path, watcher):
    sizes = (5, 5, 5, 5)
    start(tmp_path / "bad", watcher, poison=3, sizes=sizes, cohort=4, rounds=1)
    state = torch.load(tmp_path / "bad/checkpoint/state.pt", weights_only=True)
    assert all(torch.isfinite(leaf).all() for leaf in state["server"])


def test_when_every_client_fails_the_model_stays_and_the_run_goes_on(tmp_path, watcher):
    start(tmp_path / "run", watcher, poison=0, sizes=(6,), population=1, cohort=1, rounds=2)
    first, second = read_metrics(tmp_path / "run")
    assert first["test_loss"] == second["test_loss"]
    assert first["train_loss"] is None


# --- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [fedavg, remembering], ids=["stateless", "stateful"])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_run_resumed_from_its_checkpoint_ends_with_the_same_metrics(
    tmp_path, watcher, done, make
):
    parts = {"rounds": 4, "strategy": make(steps=sgd(0.1))}
    start(tmp_path / "whole", watcher, **parts)
    prepared = prepare(small_world(**parts), Settings(width=2))
    description = describe("small", {"some": 1}, prepared, "cohort")

    class Stopped(Exception):
        pass

    class Stopping(type(watcher)):
        def round_done(self, metrics):
            if metrics["round"] == done:
                raise Stopped

    with pytest.raises(Stopped):
        run_prepared(prepared, description, [Stopping([])], out=tmp_path / "cut")
    start(tmp_path / "cut", watcher, **parts, resume=True)
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(tmp_path, watcher):
    start(tmp_path / "run", watcher)
    before = without_times(tmp_path / "run")
    start(tmp_path / "run", watcher, resume=True)
    assert without_times(tmp_path / "run") == before


def test_a_metrics_line_that_a_kill_cut_short_is_forgotten(tmp_path, watcher):
    start(tmp_path / "run", watcher)
    before = without_times(tmp_path / "run")
    with (tmp_path / "run/metrics.jsonl").open("a") as stream:
        stream.write('{"round": 4, "seco')
    (tmp_path / "run/checkpoint/state.tmp").write_bytes(b"half a checkpoint")
    start(tmp_path / "run", watcher, resume=True)
    assert without_times(tmp_path / "run") == before


def test_a_folder_appears_only_with_its_description(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"scenario": "x"})
    folder.close()
    assert (tmp_path / "run/run.json").is_file()
    with pytest.raises(InputError, match="--out must be a new folder"):
        RunFolder.create(tmp_path / "run", {"scenario": "x"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": Settings(seed=2, width=2)}, "seed must be as the run had it, 1, to resume"),
        ({"settings": Settings(width=3)}, "width must be as the run had it, 2"),
        ({"sizes": (1, 5, 8, 12, 20, 4)}, "fingerprint must be as the run had it"),
    ],
)
def test_a_resume_as_another_run_is_refused(tmp_path, watcher, change, message):
    start(tmp_path / "run", watcher)
    with pytest.raises(InputError, match=message):
        start(tmp_path / "run", watcher, resume=True, **change)


KILLABLE = '''
"""Digits, slow enough to be killed between any two writes."""
import time
from dataclasses import replace
from scenarios.digits_quickstart import scenario as digits

def scenario(*, rounds: int = 8, pause: float = 0.15):
    made = digits(rounds=rounds, cohort=10, local_epochs=1)
    def choose(state, draw):
        time.sleep(pause)
        return made.selection.choose(state, draw)
    return replace(made, selection=replace(made.selection, choose=choose), evaluate_every=1)
'''


def test_a_run_killed_again_and_again_ends_as_if_it_never_was(tmp_path):
    script = tmp_path / "killable.py"
    script.write_text(KILLABLE)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["run", str(script), "--out", str(whole)]) == 0
    command = [sys.executable, "-m", "fedsim", "run", str(script), "--out", str(cut)]
    for rows in (1, 4, 7):
        resume = ["--resume"] if cut.exists() else []
        process = subprocess.Popen([*command, *resume], stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + 60
        while not (cut / "metrics.jsonl").exists() or len(read_metrics(cut)) < rows:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < give_up
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (cut / "summary.json").exists()
    assert main([*command[3:], "--resume"]) == 0
    assert without_times(cut) == without_times(whole)


# --- width, through the whole run ----------------------------------------------------------------


def test_width_one_and_width_ten_end_with_the_same_test_loss(tmp_path, watcher):
    sizes = tuple(range(1, 21))
    losses = []
    for width in (1, 10):
        out = tmp_path / str(width)
        start(
            out,
            watcher,
            settings=Settings(width=width),
            sizes=sizes,
            cohort=20,
            plan=batch_plans.shuffled_epochs(epochs=3, batch_size=2),
        )
        losses.append(read_metrics(out)[-1]["test_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_full_disk_loses_nothing_that_was_done(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    real, calls = torch.save, []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(torch, "save", failing)
    assert main([*DIGITS, "--out", str(out)]) == 1
    assert "No space left on device" in (said := capsys.readouterr().err)
    assert "--resume" in said
    assert main([*DIGITS, "--out", str(out), "--resume"]) == 0
    assert main([*DIGITS, "--out", str(tmp_path / "whole")]) == 0
    assert without_times(out) == without_times(tmp_path / "whole")


# --- precision -----------------------------------------------------------------------------------


def test_bf16_learns_nearly_the_same_model_and_is_not_the_same_arithmetic(tmp_path, watcher):
    finals = []
    for precision in ("float32", "bf16"):
        settings = Settings(width=4, workers=1, precision=precision)
        start(tmp_path / precision, watcher, settings=settings)
        finals.append(watcher.rows[-1]["test_loss"])
    assert finals[0] != finals[1]
    assert finals[1] == pytest.approx(finals[0], rel=0.05)


def test_bf16_is_refused_where_gradients_are_clipped_for_each_example():
    private = dp_sgd(noise_multiplier=1.0)
    with pytest.raises(InputError, match="precision must be float32 or tf32"):
        prepare(small_world(mechanism=private), Settings(precision="bf16"))
