"""What is said about a run: evaluation, spread over clients, comparison, forecast."""

import math

import numpy as np
import pytest
import torch

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.models.tasks import classification
from fedsim.models.vision import softmax_regression
from fedsim.runs import compare, forecast, plots
from fedsim.runs.result import Result
from fedsim.server.setup import prepare
from fedsim.training.evaluation import LABEL_MATCHED, OWN_TESTS, evaluate, spread
from fedsim.training.executor import InThisProcess
from fedsim.world import partition
from tests.helpers.worlds import blobs, small_world


def always(label, classes=3):
    """Parameters of a softmax regression that answers `label` whatever it sees."""
    bias = torch.zeros(classes)
    bias[label] = 10.0
    return {"1.weight": torch.zeros(classes, 2), "1.bias": bias}


def world(**owners):
    """Three clients with labels (0, 0), (0, 1, 1, 1) and none; the test set has 0 0 1 2."""
    y, test_y = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 2])
    dataset = Dataset(
        name="tiny",
        train=Examples(torch.zeros(6, 2), y),
        test=Examples(torch.zeros(4, 2), test_y),
        num_classes=3,
        **owners,
    )
    own = "train_owners" in owners
    return prepare(
        small_world(
            data=Source(name="tiny", load=lambda _: dataset),
            split=partition.natural() if own else partition.given(np.array([0, 0, 1, 1, 1, 1])),
            task=classification("softmax", lambda: softmax_regression(2, 3)),
            population=2 if own else 3,
            cohort=1,
        ),
        Settings(width=1),
    )


def test_test_accuracy_and_loss_are_those_of_the_whole_test_set():
    prepared = world()
    result = evaluate(prepared.scenario.task, always(0), prepared.dealt, portion=3)
    assert result.accuracy == 0.5
    right, wrong = math.log(1 + 2 * math.exp(-10)), 10 + math.log(1 + 2 * math.exp(-10))
    assert result.loss == pytest.approx((2 * right + 2 * wrong) / 4, rel=1e-6)


def test_without_own_tests_a_client_is_weighed_by_its_labels():
    prepared = world()
    result = evaluate(prepared.scenario.task, always(0), prepared.dealt)
    # client 0 has only zeros; client 1 a quarter; client 2 has nothing
    np.testing.assert_array_equal(result.personal, [1.0, 0.25, np.nan])
    assert result.source == LABEL_MATCHED


def test_with_own_tests_a_client_is_tested_on_them():
    prepared = world(
        train_owners=np.array(["a", "a", "b", "b", "b", "b"]),
        test_owners=np.array(["b", "b", "a", "b"]),
    )
    result = evaluate(prepared.scenario.task, always(0), prepared.dealt)
    np.testing.assert_allclose(result.personal, [0, 2 / 3])
    assert result.source == OWN_TESTS


def test_spread_gives_the_worst_tenth_and_the_deciles_of_clients_that_have_data():
    personal = np.append(np.arange(20) / 20, np.nan)
    found = spread(np.random.default_rng(0).permutation(personal))
    assert found["clients"] == 20
    assert found["worst_tenth"] == pytest.approx((0 + 1 / 20) / 2)
    assert found["deciles"][0] == 0
    assert found["deciles"][5] == pytest.approx(np.median(np.arange(20) / 20))
    assert found["std"] == pytest.approx(np.std(np.arange(20) / 20))
    assert spread(np.array([np.nan])) == {}


# --- compare ------------------------------------------------------------------------------------


def a_run(seed, accuracies, **knobs):
    rows = [
        {
            "round": 2 * i + 2,
            "test_accuracy": a,
            "test_loss": 1 - a,
            "bytes_up": 5,
            "bytes_down": 7,
            "seconds": 0.5,
            "clients": {"worst_tenth": a / 2},
        }
        for i, a in enumerate(accuracies)
    ]
    return compare.Run(
        path=None, scenario="s", strategy="x", knobs={"lr": 0.1, **knobs}, seed=seed, metrics=rows
    )


def test_runs_are_grouped_over_seeds_and_labelled_by_what_differs():
    groups = compare.group_runs(
        [
            a_run(2, [0.5], mu=1),
            a_run(1, [0.4], mu=1),
            a_run(1, [0.6], mu=2),
        ]
    )
    assert list(groups) == ["mu=1", "mu=2"]
    assert [run.seed for run in groups["mu=1"]] == [1, 2]
    assert list(compare.group_runs([a_run(1, [0.5])])) == ["s"]


def test_rounds_to_target_and_differences_are_over_the_seeds_that_have_them():
    groups = compare.group_runs(
        [
            a_run(1, [0.5, 0.8], mu=1),
            a_run(2, [0.6, 0.7], mu=1),
            a_run(1, [0.75, 0.9], mu=2),
            a_run(3, [0.1, 0.2], mu=2),
        ]
    )
    first, second = compare.table(groups, target=0.75)
    assert first["rounds_to_target"].mean == 4
    assert (first["reached"], second["reached"]) == (1, 1)
    assert second["rounds_to_target"].mean == 2
    assert second["difference"].mean == pytest.approx(0.9 - 0.8)  # seed 1 alone is in both
    assert first["difference"] is None
    assert first["bytes"].mean == 24


def test_without_a_target_it_is_the_lowest_final_accuracy():
    groups = compare.group_runs([a_run(1, [0.5, 0.8], mu=1), a_run(1, [0.9, 0.7], mu=2)])
    rows = compare.table(groups, None)
    assert {row["target"] for row in rows} == {0.7}
    assert all(row["reached"] == 1 for row in rows)


# --- pictures -----------------------------------------------------------------------------------


def test_pictures_can_be_drawn_of_the_oddest_runs(tmp_path):
    """One client, one round, an empty client, no accuracy for anybody: no warning, a picture."""
    plots.draw_split(tmp_path / "a.png", np.array([[0, 0], [3, 1]]))
    plots.draw_split(tmp_path / "b.png", np.random.default_rng(0).integers(9, size=(500, 62)))
    evaluation = evaluate((e := world()).scenario.task, always(0), e.dealt)
    plots.draw_clients(tmp_path / "c.png", evaluation)
    row = {"round": 1, "train_loss": None, "test_loss": 1.0, "test_accuracy": 0.1, "clients": {}}
    plots.draw_curves(tmp_path / "d.png", [row])
    assert all((tmp_path / f"{name}.png").stat().st_size > 5_000 for name in "abcd")


# --- forecast -----------------------------------------------------------------------------------


def test_a_forecast_counts_steps_bytes_and_empty_clients():
    sizes = (4, 0, 9)
    prepared = prepare(
        small_world(
            data=blobs(sizes),
            split=partition.given(np.repeat(np.arange(3), sizes)),
            population=3,
            cohort=2,
            rounds=10,
            evaluate_every=3,
        ),
        Settings(width=2),
    )
    expected = forecast.forecast(prepared, InThisProcess(prepared.trainer))
    # two epochs in batches of 4: 2 steps, none, and 6
    assert expected["steps_of_a_client"] == {"mean": pytest.approx(8 / 3), "max": 6}
    assert expected["empty_clients"] == 1
    assert expected["sampling_prob"] == pytest.approx(2 / 3)
    model = 4 * (5 * 8 + 8 + 8 * 3 + 3)
    assert expected["bytes_down"] == 20 * (model + 4)
    assert expected["bytes_up"] == round(20 * model * 2 / 3)


def test_a_run_that_was_killed_before_its_first_round_has_an_empty_table(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    assert Result(tmp_path).metrics.empty
    with pytest.raises(InputError, match="the run must have ended"):
        _ = Result(tmp_path).clients
