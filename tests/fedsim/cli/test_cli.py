"""The command line as a person meets it: right input works, wrong input gets one helpful line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import privacy
import scenarios
import strategies
from fedsim.cli import main
from fedsim.runs.catalogue import find_script, script_summaries
from strategies import aggregators, batch_plans, client_selection, step_rules

QUICK = ["run", "digits_quickstart", "--rounds", "2", "--cohort", "5"]


def wrong(capsys, *arguments):
    """The one line that a wrong input gets; checks exit code 2, one line, and no traceback."""
    assert main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert "Traceback" not in line
    return line


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three short runs of digits: two seeds of fedavg, one of fedprox."""
    folder = tmp_path_factory.mktemp("runs")
    for name, extra in (
        ("a1", ["--seed", "1"]),
        ("a2", ["--seed", "2"]),
        ("p1", ["--strategy", "fedprox", "--mu", "1"]),
    ):
        assert main([*QUICK, "--out", str(folder / name), *extra]) == 0
    return folder


# --- right input ---------------------------------------------------------------------------------


def test_list_names_everything_with_one_line_each(capsys):
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    folder = Path(scenarios.__path__[0])
    for kind, where in (("scenarios", folder), ("studies", folder / "studies")):
        assert set(found[kind]) == {path.stem for path in where.glob("*.py")} - {"__init__"}
    for kind, package in (
        ("strategies", strategies),
        ("step_rules", step_rules),
        ("batch_plans", batch_plans),
        ("client_selections", client_selection),
        ("aggregators", aggregators),
        ("mechanisms", privacy),
    ):
        assert set(found[kind]) == set(package.__all__)
    assert {"digits", "fashion_mnist", "femnist"} <= set(found["datasets"])
    assert {"lenet", "mlp", "encoder"} <= set(found["models"])
    assert set(found) == {
        "scenarios",
        "studies",
        "strategies",
        "step_rules",
        "batch_plans",
        "client_selections",
        "aggregators",
        "mechanisms",
        "datasets",
        "models",
    }
    assert found["step_rules"]["delta_sgd"].startswith("Stochastic gradient descent")
    assert found["aggregators"]["krum"].startswith("The one update")
    assert all(line.strip() for entries in found.values() for line in entries.values())


def test_list_goes_to_stdout_one_line_a_name_so_that_grep_finds_entries(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    entries = json.loads(_stdout(capsys, "list", "--json"))
    for kind, names in entries.items():
        (at,) = (n for n, line in enumerate(lines) if line.split(" (")[0] == kind.replace("_", " "))
        for number, (name, summary) in enumerate(names.items(), start=at + 1):
            assert lines[number].split() == [name, *summary.split()]
    assert [line for line in lines if "dp_fashion_mnist" in line]


def _stdout(capsys, *arguments):
    assert main([*map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_run_with_json_puts_one_document_on_stdout(tmp_path, capsys):
    assert main([*QUICK, "--out", str(tmp_path / "run"), "--json"]) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert "test accuracy" in shown.err  # the table of the summary
    assert summary["rounds"] == 2
    assert summary["folder"] == str(tmp_path / "run")


def test_a_run_puts_its_summary_on_stdout_and_its_progress_on_stderr(tmp_path, capsys):
    assert main([*QUICK, "--out", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr()
    assert "test accuracy" in shown.out
    assert "test accuracy" not in shown.err
    assert "round 2: accuracy" in shown.err
    assert "round 2: accuracy" not in shown.out


def test_knobs_reach_the_scenario(finished):
    description = json.loads((finished / "p1/run.json").read_text())
    assert description["knobs"]["strategy"] == "fedprox"
    assert description["algorithm"]["strategy"] == "fedprox"
    assert description["cohort"] == 5


def test_help_of_a_scenario_teaches_its_knobs(capsys):
    assert main(["run", "fashion_mnist_dirichlet", "--help"]) == 0
    text = capsys.readouterr().out
    assert "Dirichlet concentration of the label split" in text
    for option in (
        "--alpha",
        "--population",
        "--cohort",
        "--seed",
        "--device",
        "--runtime",
        "--workers",
        "--width",
        "--out",
        "--resume",
        "--data-dir",
    ):
        assert option in text


def test_plan_says_what_a_run_would_be_and_trains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "digits_quickstart", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert expected["sampling_prob"] == pytest.approx(40 / 240)
    assert expected["bytes_up"] <= 60 * 40 * 4 * (64 * 64 + 64 + 64 * 10 + 10)
    assert expected["epsilon"] is None
    assert expected["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_plan_without_json_is_a_table_on_stdout(capsys):
    assert main(["plan", "digits_quickstart"]) == 0
    shown = capsys.readouterr()
    assert "plan of digits_quickstart" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize("name", sorted(script_summaries("study")))
def test_a_plan_of_a_study_names_a_scenario_that_can_be_planned(capsys, name):
    line = wrong(capsys, "plan", name)
    assert f"SCENARIO must be a scenario; got {name}, a study" in line
    assert re.search(r"fedsim plan (\w+)\.$", line).group(1) in script_summaries("scenario")
    assert re.search(r"`fedsim plan \w+`", find_script(name).doc), "the study does not say which"


def test_a_script_anywhere_is_a_scenario(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "from scenarios.digits_quickstart import scenario as digits\n"
        "def scenario(*, colour: str = 'red'):\n"
        "    return digits(rounds=1, cohort=3)\n"
    )
    out = tmp_path / "run"
    assert main(["run", str(script), "--colour", "blue", "--rounds", "2", "--out", str(out)]) == 0
    description = json.loads((out / "run.json").read_text())
    assert description["scenario"] == "mine"
    assert description["knobs"] == {"colour": "blue", "rounds": 2}
    assert description["rounds"] == 2


def test_a_scenario_module_runs_by_itself(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "scenarios.digits_quickstart", "--rounds", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "run.json").read_text())["scenario"] == "digits_quickstart"


def test_compare_gives_intervals_over_seeds_and_paired_differences(finished, tmp_path, capsys):
    out = tmp_path / "compared"
    runs = [str(finished / name) for name in ("a1", "a2", "p1")]
    assert main(["compare", *runs, "--out", str(out), "--json"]) == 0
    average, prox = json.loads(capsys.readouterr().out)
    assert average["seeds"] == [1, 2]
    assert average["accuracy"]["half"] > 0
    assert "mu=1.0 strategy=fedprox" in prox["run"]
    assert prox["accuracy"]["half"] is None
    base = json.loads((finished / "a1/summary.json").read_text())["test_accuracy"]
    assert prox["difference"]["mean"] == pytest.approx(prox["accuracy"]["mean"] - base)
    assert "mu=1.0 strategy=fedprox" in _stdout(capsys, "compare", *runs)
    assert (out / "compare.png").stat().st_size > 10_000
    assert json.loads((out / "compare.json").read_text())[0]["run"] == average["run"]


# --- wrong input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "digits_quikstart"], ["must be a known name", "digits_quickstart"]),
        (["plan", "nothing_like_it_zzz"], ["Known:", "cifar10_pfl"]),
        (["run", "no/such/script.py"], ["a script that exists", "no/such/script.py"]),
        (["rum"], ["rum"]),
        ([*QUICK, "--alhpa", "1"], ["--alhpa", "--alpha"]),
        ([*QUICK, "--alpha", "0"], ["dirichlet: alpha must be > 0; got 0.0", "Use 0.1"]),
        ([*QUICK, "--alpha", "-1"], ["alpha must be > 0; got -1.0"]),
        ([*QUICK, "--alpha", "nan"], ["alpha must be > 0; got nan"]),
        ([*QUICK, "--alpha", "wide"], ["--alpha", "wide"]),
        ([*QUICK, "--strategy", "fedpox"], ["--strategy", "fedprox"]),
        (["run", "digits_quickstart", "--cohort", "241"], ["at most the population, 240", "241"]),
        ([*QUICK, "--population", "5000"], ["at most the number of examples, 1438", "5000"]),
        ([*QUICK, "--rounds", "0"], ["rounds must be at least 1; got 0"]),
        ([*QUICK, "--width", "0"], ["width must be at least 1", "auto"]),
        ([*QUICK, "--width", "wide"], ["--width", "auto or a whole number"]),
        ([*QUICK, "--seed", "-1"], ["seed must be at least 0"]),
        ([*QUICK, "--workers", "0"], ["workers must be at least 1", "auto"]),
        ([*QUICK, "--resume"], ["--out must say which run to resume"]),
        (["run", "fashion_mnist_dirichlet"], ["--data-dir must be given", "FEDSIM_DATA"]),
        (["run", "femnist_writers", "--data-dir", "nowhere"], ["femnist/", "nowhere"]),
        (["compare", "nowhere"], ["with a run.json", "nowhere"]),
        (["compare"], ["RUN_DIR"]),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_a_wrong_input_gets_exit_code_2_and_one_line(
    capsys, monkeypatch, tmp_path, arguments, parts
):
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    line = wrong(capsys, *arguments)
    for part in parts:
        assert part in line
    assert list(tmp_path.iterdir()) == [], "a wrong input must leave nothing behind"


def test_an_existing_out_is_refused(finished, capsys):
    line = wrong(capsys, *QUICK, "--out", finished / "a1")
    assert "--out must be a new folder" in line
    assert "--resume" in line


def test_a_resume_with_other_knobs_is_refused(finished, capsys):
    line = wrong(capsys, *QUICK, "--lr", "0.2", "--out", finished / "a1", "--resume")
    assert "lr must be as the run had it, 0.1, to resume; got 0.2" in line


def test_a_resume_of_nothing_is_refused(tmp_path, capsys):
    assert "run.json" in wrong(capsys, *QUICK, "--out", tmp_path / "none", "--resume")


def test_a_corrupt_data_file_is_named_with_what_was_expected(tmp_path, capsys):
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not a gzip")
    line = wrong(capsys, "run", "fashion_mnist_dirichlet", "--data-dir", tmp_path)
    assert "train-images-idx3-ubyte.gz must be a gzipped idx file" in line
    assert "(60000, 28, 28)" in line


def test_a_script_without_a_scenario_or_with_a_mistake_is_told(tmp_path, capsys):
    script = tmp_path / "mine.py"
    script.write_text("x = 1\n")
    assert "must have a function scenario" in wrong(capsys, "run", script)
    script.write_text("def scenario(:\n")
    assert "invalid syntax" in wrong(capsys, "run", script)
    script.write_text("def scenario(*, alpha: float): ...\n")
    assert "alpha must have a default" in wrong(capsys, "run", script)
    script.write_text("def scenario(*, alpha: list = ()): ...\n")
    assert "alpha must be int, float, str, bool" in wrong(capsys, "run", script)


def test_the_same_run_twice_in_a_comparison_is_refused(finished, capsys):
    assert "differ in a knob or" in wrong(capsys, "compare", finished / "a1", finished / "a1")


def test_a_comparison_target_above_one_is_refused(finished, capsys):
    assert "target must be in (0, 1]" in wrong(capsys, "compare", finished / "a1", "--target", "80")
