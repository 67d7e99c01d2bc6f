"""`import fedsim`: what it gives, how little it costs, and that its examples are true."""

import doctest
import inspect
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import fedsim
from fedsim.core.errors import InputError
from fedsim.runs.callbacks import early_stopping
from strategies import fedprox
from strategies.step_rules import sgd
from tests.helpers.worlds import small_world

QUICK = {"width": 4, "workers": 1, "progress": False}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch, no_pictures):
    monkeypatch.chdir(tmp_path)


def run(**changes):
    given = {"rounds": 3, **QUICK, **changes}
    return fedsim.run("digits_quickstart", population=12, cohort=4, **given)


def test_importing_fedsim_imports_nothing_heavy():
    code = (
        "import sys, fedsim; dir(fedsim); "
        "print([m for m in ('torch', 'numpy', 'flwr', 'pandas', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_front_door_has_at_most_twenty_names_and_each_is_documented():
    assert dir(fedsim) == sorted(fedsim.__all__)
    assert len(fedsim.__all__) <= 20
    for name in fedsim.__all__:
        value = getattr(fedsim, name)
        assert name == "__version__" or inspect.getdoc(value)


@pytest.mark.parametrize("name", ["run", "resume", "load", "plan", "compare", "audit", "study"])
def test_the_example_of_a_function_is_true(name):
    function = getattr(fedsim, name)
    found = doctest.DocTestFinder(recurse=False).find(function, name)
    assert sum(len(test.examples) for test in found) >= 2
    for test in found:
        results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
        assert results.failed == 0


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = fedsim.runn


def test_a_results_metrics_and_clients_are_data_frames():
    result = run()
    assert list(result.metrics.index) == [1, 2, 3]
    assert result.metrics.index.name == "round"
    assert isinstance(result.metrics, pd.DataFrame)
    assert {"train_loss", "test_accuracy", "clients_mean"} <= set(result.metrics.columns)
    assert list(result.clients.index) == list(range(12))
    assert set(result.clients.columns) == {"examples", "accuracy"}
    assert result.summary["rounds"] == 3


def test_a_results_model_is_the_users_module_with_the_final_parameters():
    result = run()
    model = result.model()
    assert isinstance(model, nn.Module)
    assert not model.training
    final = result.params()
    for name, value in model.named_parameters():
        assert torch.equal(value, final[name])
    again = fedsim.load(result.folder).model()
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(model(x), again(x))


def test_the_model_of_a_result_answers_as_the_run_was_evaluated():
    scenario = small_world()
    result = fedsim.run(scenario, **QUICK)
    test = scenario.data.load(None).test
    with torch.no_grad():
        hit = (result.model()(test.x).argmax(dim=1) == test.y).float().mean()
    assert float(hit) == pytest.approx(result.summary["test_accuracy"])


def test_frozen_weights_are_read_only_when_the_model_is_asked_for(tmp_path):
    scenario, folders = small_world(), []

    def prepare(data_dir):
        folders.append(data_dir)
        return scenario.task

    result = fedsim.run(scenario, **QUICK)
    task = replace(scenario.task, prepare=prepare)
    loaded = fedsim.load(result.folder, replace(scenario, task=task))
    assert len(loaded.metrics) == 3
    assert folders == []
    loaded.model(data_dir=tmp_path)
    assert folders == [tmp_path]


def test_a_scenarios_fields_are_its_knobs():
    strategy = fedprox(steps=sgd(0.1), mu=0.5)
    result = fedsim.run(small_world(), strategy=strategy, rounds=2, **QUICK)
    assert result.summary["strategy"] == strategy.name
    assert len(result.metrics) == 2


def test_a_run_from_python_is_the_run_of_the_command_line(tmp_path):
    from fedsim.cli import main

    command = "run digits_quickstart --population 12 --cohort 4 --rounds 3 --width 4 --workers 1"
    assert main([*command.split(), "--out", str(tmp_path / "there")]) == 0
    here, there = run(), fedsim.load(tmp_path / "there")
    pd.testing.assert_frame_equal(
        here.metrics.drop(columns="seconds"), there.metrics.drop(columns="seconds")
    )
    assert here.description["knobs"] == there.description["knobs"]


def test_a_callback_may_stop_a_run_which_can_be_resumed():
    rows, ends = [], []
    watching = fedsim.Callback(
        round_done=lambda row: rows.append(row["round"]) or row["round"] == 2,
        run_done=lambda result: ends.append(result.summary["rounds"]),
    )
    stopped = run(rounds=4, callbacks=[watching])
    assert rows == [1, 2]
    assert ends == [2]
    assert stopped.summary["stopped"] == "a callback stopped the run after round 2"
    whole = run(rounds=4)
    resumed = fedsim.resume(stopped.folder, progress=False)
    pd.testing.assert_frame_equal(
        resumed.metrics.drop(columns="seconds"), whole.metrics.drop(columns="seconds")
    )


def test_early_stopping_waits_for_so_many_evaluations_without_a_new_best():
    stop = early_stopping("test_loss", patience=2)
    losses = [3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 0.5]
    stopped = [stop.round_done({"round": n, "test_loss": x}) for n, x in enumerate(losses)]
    assert stopped == [False, False, False, False, False, True, False]
    assert not stop.round_done({"round": 9, "train_loss": 1.0})  # not evaluated


def test_early_stopping_refuses_a_metric_that_a_run_does_not_report():
    with pytest.raises(InputError, match=r"metric must be one .* test_loss.*got 'acuracy'"):
        early_stopping("acuracy").round_done({"round": 1, "test_loss": 1.0})


def test_runs_are_compared_as_a_data_frame():
    table = fedsim.compare([run(seed=1), run(seed=2), run(seed=1, lr=0.5)])
    assert list(table.index) == ["lr=0.1", "lr=0.5"]
    assert table.loc["lr=0.1", "seeds"] == [1, 2]
    assert table.loc["lr=0.1", "accuracy_half"] > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fedsim.run("digits_quikstart"), "Did you mean digits_quickstart"),
        (lambda: fedsim.run("digits_quickstart", roundz=2), "knob must be a known name"),
        (lambda: fedsim.run(small_world(), lr=2), "knob must be a known name; got 'lr'"),
        (lambda: fedsim.run("dp_correlated"), r"Use fedsim\.study\('dp_correlated'\)"),
        (lambda: fedsim.study("digits_quickstart"), r"Use fedsim\.run\('digits_quickstart'\)"),
        (lambda: fedsim.load("nowhere"), "must be of a run"),
        (lambda: fedsim.resume("nowhere"), "must be of a run"),
        (lambda: fedsim.load(fedsim.run(small_world(), **QUICK).folder).model(), "task must be"),
        (
            lambda: fedsim.resume(fedsim.run(small_world(), **QUICK).folder),
            "scenario must be given",
        ),
    ],
)
def test_a_users_mistake_is_one_line_that_says_what_to_write(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"rounds": "3"}, "rounds must be a whole number; got '3'"),
        ({"rounds": None}, "rounds must be a whole number; got None"),
        ({"rounds": True}, "rounds must be a whole number; got True"),
        ({"local_epochs": 2.5}, r"local_epochs must be a whole number; got 2\.5"),
        ({"lr": "a"}, "lr must be a number; got 'a'"),
        ({"strategy": "fedavgg"}, "strategy must be one of .*fedavg.*; got 'fedavgg'"),
        ({"seed": None}, "seed must be a whole number; got None"),
        ({"device": "cdua"}, "device must be one of auto, cpu, cuda; got 'cdua'"),
        ({"precision": "fp32"}, "precision must be one of float32"),
        ({"runtime": "rya"}, "runtime must be one of cohort, ray; got 'rya'"),
        ({"width": "2"}, "width must be a whole number; got '2'"),
        ({"workers": 1.0}, r"workers must be a whole number; got 1\.0"),
        ({"data_dir": 3}, "data_dir must be a path; got 3"),
        ({"out": 3}, "out must be a path; got 3"),
        ({"callbacks": None}, "callbacks must be a list of Callback; got None"),
        ({"callbacks": fedsim.Callback()}, "callbacks must be a list of Callback"),
        ({"callbacks": [print]}, "callbacks must be a list of Callback"),
    ],
)
def test_a_knob_of_another_type_is_refused_before_anything_is_written(tmp_path, knobs, message):
    with pytest.raises(InputError, match=message):
        run(**knobs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rounds": 2.5}, "rounds must be a whole number"),
        ({"budget": "x"}, "budget must be a number"),
        ({"strategy": "fedavg"}, "strategy must be a Strategy; got 'fedavg'"),
        ({"mechanism": None}, "mechanism must be a Mechanism; got None"),
    ],
)
def test_a_field_of_another_type_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        fedsim.run(small_world(), **QUICK, **fields)


def test_numbers_of_numpy_are_numbers():
    result = run(rounds=np.int64(2), lr=np.float64(0.1), seed=np.int64(1), width=np.int32(4))
    knobs = result.description["knobs"]
    assert (knobs["rounds"], knobs["lr"]) == (2, 0.1)
    pd.testing.assert_frame_equal(
        result.metrics.drop(columns="seconds"), run(rounds=2).metrics.drop(columns="seconds")
    )


def test_a_whole_number_is_the_same_knob_as_from_the_command_line():
    knobs = run(rounds=1, lr=1).description["knobs"]
    assert isinstance(knobs["lr"], float)


def test_a_run_that_cannot_be_described_leaves_nothing_behind(tmp_path):
    from fedsim.runs.folder import RunFolder

    with pytest.raises(TypeError):
        RunFolder.create(tmp_path / "run", {"knobs": {"x": object()}})
    assert list(tmp_path.iterdir()) == []


def test_a_knob_of_a_script_comes_before_a_setting_of_that_name(tmp_path):
    (tmp_path / "wide.py").write_text(
        "from tests.helpers.worlds import small_world\n"
        "def scenario(*, width: int = 5):\n"
        "    assert width == 7\n"
        "    return small_world()\n"
    )
    result = fedsim.run("./wide.py", workers=1, progress=False, width=7)
    assert result.description["knobs"] == {"width": 7}


@pytest.mark.parametrize("answer", [1, "yes", np.array([1, 2]), torch.tensor([True, True])])
def test_only_true_stops_a_run(answer):
    watching = fedsim.Callback(round_done=lambda row: answer)
    assert len(run(callbacks=[watching]).metrics) == 3


def test_a_truth_of_numpy_stops_a_run():
    watching = fedsim.Callback(round_done=lambda row: np.float64(0.9) > 0.5)
    assert len(run(callbacks=[watching]).metrics) == 1


def test_what_a_callback_does_to_its_row_changes_no_result():
    watching = fedsim.Callback(round_done=lambda row: row.clear())
    pd.testing.assert_frame_equal(
        run(callbacks=[watching]).metrics.drop(columns="seconds"),
        run().metrics.drop(columns="seconds"),
    )


def fail(*given):
    raise ZeroDivisionError


@pytest.mark.parametrize("when", ["run_started", "round_done", "run_done"])
def test_a_run_whose_callback_failed_is_resumed(when):
    with pytest.raises(ZeroDivisionError):
        run(out="failed", callbacks=[fedsim.Callback(**{when: fail})])
    assert len(fedsim.load("failed").metrics) == {"run_started": 0, "round_done": 1}.get(when, 3)
    resumed = fedsim.resume(fedsim.load("failed"), progress=False)
    pd.testing.assert_frame_equal(
        resumed.metrics.drop(columns="seconds"), run().metrics.drop(columns="seconds")
    )


def test_clients_and_summary_of_a_run_that_has_not_ended_are_refused():
    with pytest.raises(ZeroDivisionError):
        run(out="failed", callbacks=[fedsim.Callback(round_done=fail)])
    for part in ("clients", "summary"):
        with pytest.raises(InputError, match="must have ended"):
            getattr(fedsim.load("failed"), part)


def test_a_scenario_is_resumed_with_its_own_strategy_only():
    stopped = fedsim.run(
        small_world(rounds=3), callbacks=[fedsim.Callback(round_done=lambda row: True)], **QUICK
    )
    other = replace(small_world(rounds=3), strategy=fedprox(steps=sgd(0.1), mu=0.5))
    with pytest.raises(InputError, match="strategy must be the run's, 'fedavg'"):
        fedsim.resume(stopped, other, progress=False)
    assert len(fedsim.resume(stopped, small_world(rounds=3), progress=False).metrics) == 3


def test_scenarios_of_two_strategies_are_two_rows():
    mine = small_world()
    other = replace(mine, strategy=fedprox(steps=sgd(0.1), mu=0.5))
    table = fedsim.compare([fedsim.run(mine, **QUICK), fedsim.run(other, seed=2, **QUICK)])
    assert list(table.index) == ["strategy=fedavg", "strategy=fedprox"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fedsim.compare([]), "must be one run or more"),
        (lambda: fedsim.compare([None]), "folder must be a Result or a path; got None"),
        (lambda: fedsim.compare([run()], target=80), r"target must be in \(0, 1\]; got 80"),
        (lambda: fedsim.audit(None), "folder must be a Result or a path"),
        (lambda: fedsim.load(None), "folder must be a Result or a path"),
        (lambda: fedsim.run(small_world), "Scenario; got a function"),
        (lambda: early_stopping(patience="3"), "patience must be a whole number; got '3'"),
        (lambda: fedsim.study("dp_correlated", runtime="ray"), "runtime must be left out"),
        (lambda: fedsim.study("dp_correlated", rounds="x"), "rounds must be a whole number"),
    ],
)
def test_other_mistakes_are_one_line_too(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_one_run_may_be_compared_as_it_is():
    result = run()
    assert len(fedsim.compare(result)) == len(fedsim.compare(str(result.folder))) == 1


def test_a_plan_trains_nothing_and_leaves_nothing_behind(tmp_path):
    expected = fedsim.plan(small_world(), width=2, workers=1)
    assert expected["population"] == 6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"scenario": "dp_correlated"}, {"knobs": {"arm": "plain"}}])
def test_metrics_are_loaded_where_the_scenario_cannot_be_made_again(change):
    result = run()
    file = result.folder / "run.json"
    file.write_text(json.dumps(result.description | change), encoding="utf-8")
    loaded = fedsim.load(result.folder)
    assert len(loaded.metrics) == 3
    with pytest.raises(InputError, match="no task is known"):
        loaded.model()
    with pytest.raises(InputError):
        fedsim.resume(result.folder, progress=False)
