"""Functions that can only be asked for values: the problems, and runs that know no accuracy."""

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from fedsim.cli import main
from fedsim.core.batch import Batch, Penalty
from fedsim.core.dataset import Dataset, Examples, Scale, Source
from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.models.black_box import (
    black_box,
    external,
    metric,
    quadratics,
    universal_perturbation,
)
from fedsim.models.black_box.adversarial import fooled, margin
from fedsim.models.black_box.metrics import score
from fedsim.models.black_box.training import train_classifier
from fedsim.models.vision import softmax_regression
from fedsim.runs import plots
from fedsim.runs.folder import read_metrics
from fedsim.server.setup import prepare
from fedsim.training.evaluation import NO_ACCURACY, evaluate
from strategies import batch_plans, fedavg, zeroth_order
from strategies.step_rules import adam
from tests.helpers.worlds import run_by_hand, small_world


def values(problem, x, data_dir=None):
    """Every client's mean value at x."""
    task = problem.task if problem.task.prepare is None else problem.task.prepare(data_dir)
    train = problem.data.load(data_dir).train
    whole = Batch(train.x, train.y, torch.ones(len(train.y)), torch.tensor(0))
    return task.loss({"x": x}, whole).reshape(problem.population, -1).mean(dim=1)


# --- quadratics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("unlikeness", [0.0, 0.5, 5.0, 50.0])
def test_the_clients_mean_is_f_whatever_the_unlikeness(unlikeness):
    problem = quadratics(dims=40, unlikeness=unlikeness)
    for x in (torch.zeros(40), torch.linspace(0, 1, 40), torch.full((40,), 0.475)):
        z = 20 * x.double() - 10
        expected = ((z**2 + z).sum() + 1) / 400
        found = values(problem, x)
        assert float(found.mean()) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
        assert bool((found.std() > 1e-4) == (unlikeness > 0))


def test_the_floor_is_where_every_z_is_minus_a_half():
    problem = quadratics(dims=40)
    assert float(values(problem, torch.full((40,), 0.475)).mean()) == pytest.approx(problem.floor)
    near = 0.475 + 0.01 * torch.randn(40, generator=torch.Generator().manual_seed(0))
    assert float(values(problem, near).mean()) > problem.floor


def test_functions_and_starts_depend_on_their_seeds_alone():
    one, other = quadratics(dims=9, seed=1), quadratics(dims=9, seed=2)
    assert (
        one.data.load(None).fingerprint()
        == quadratics(dims=9, seed=1).data.load(None).fingerprint()
    )
    assert one.data.load(None).fingerprint() != other.data.load(None).fingerprint()
    starts = [one.task.init(seed)["x"] for seed in (1, 1, 2)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert bool(((starts[0] >= 0) & (starts[0] < 1)).all())


# --- the universal perturbation ------------------------------------------------------------------


def stripes(count=60, classes=3):
    """28x28 images whose class is the third that is bright, as bytes."""

    def load(data_dir):
        draw = np.random.default_rng(0)
        y = np.arange(count * classes) % classes
        x = draw.integers(0, 80, (len(y), 1, 28, 28))
        for label in range(classes):
            x[y == label, :, 9 * label : 9 * label + 9] += 120
        examples = Examples(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y))
        return Dataset(
            name="stripes",
            train=examples,
            test=examples,
            num_classes=classes,
            scale=Scale((0.4,), (0.3,)),
        )

    return Source(name="stripes", load=load)


def small_problem(**changes):
    return universal_perturbation(source=stripes(), **({"population": 3, "images": 4} | changes))


def test_every_client_has_as_many_images_all_of_which_the_network_gets_right():
    problem = small_problem()
    dataset, task = problem.data.load(None), problem.task.prepare(None)
    assert np.unique(dataset.train_owners, return_counts=True)[1].tolist() == [4, 4, 4]
    assert dataset.train.y.reshape(3, 4).tolist() == [[0, 1, 0, 1], [1, 2, 1, 2], [2, 0, 2, 0]]
    assert len(torch.unique(dataset.train.x.flatten(1), dim=0)) == 12  # none twice
    start = task.init(1)
    assert not task.hits(task.predict(start, dataset.train.x), dataset.train.y).any()
    assert (values(problem, start["x"]) > 0).all()


def test_a_perturbation_moves_pixels_by_at_most_its_reach_and_keeps_them_in_range():
    """Seen through a network that answers with the pixels' sum."""
    problem = small_problem(reach=0.25)
    task, x = problem.task.prepare(None), problem.data.load(None).train.x
    one_sided = [task.predict({"x": torch.full((784,), v)}, x) for v in (0.0, 0.5, 1.0)]
    assert not torch.equal(one_sided[0], one_sided[2])
    white = torch.ones(1, 1, 28, 28)
    brighter = task.predict({"x": torch.ones(784)}, white)
    torch.testing.assert_close(brighter, task.predict({"x": torch.full((784,), 0.5)}, white))
    darker = task.predict({"x": torch.zeros(784)}, white)
    same = task.predict({"x": torch.full((784,), 0.5)}, 0.75 * white)
    torch.testing.assert_close(darker, same)


def test_the_margin_is_the_lead_of_the_right_class_and_a_hit_a_wrong_answer():
    logits, y = (
        torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 5.0, 4.5]]),
        torch.tensor([0, 1, 1]),
    )
    assert margin(logits, y).tolist() == [1.0, 0.0, 0.5]
    assert fooled(logits, y).tolist() == [False, True, False]


def test_more_images_than_the_network_gets_right_are_refused():
    with pytest.raises(
        InputError, match="universal_perturbation: images must be few enough for stripes; got 500"
    ):
        small_problem(images=500).data.load(None)


def test_trained_weights_are_the_same_again_and_leave_the_global_generator_alone():
    x, y = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 2
    before = torch.random.get_rng_state()
    made = [
        train_classifier(lambda: softmax_regression(4, 2), x, y, epochs=2, lr=lr)[1]
        for lr in (0.1, 0.1, 0.2)
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(made[0]["1.weight"], made[1]["1.weight"])
    assert not torch.equal(made[0]["1.weight"], made[2]["1.weight"])


# --- the metric ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["f1", "precision", "recall", "jaccard"])
def test_scores_are_scikit_learns(kind):
    draw = np.random.default_rng(1)
    answers, y = (draw.integers(2, size=(5, 40)) for _ in range(2))
    answers[3], y[4] = 0, 0
    known = getattr(reference, f"{kind}_score")
    expected = [known(y[i], answers[i], zero_division=0) for i in range(5)]
    found = score(kind, torch.from_numpy(answers).double(), torch.from_numpy(y).double())
    np.testing.assert_allclose(found, expected, atol=1e-12)


def owned(counts=(30, 50, 20)):
    """Two classes in three dimensions, with owners of these sizes."""

    def load(data_dir):
        draw = np.random.default_rng(2)
        owners = np.repeat([f"owner {i}" for i in range(len(counts))], counts)
        y = draw.integers(2, size=len(owners))
        x = draw.normal(size=(len(owners), 3)).astype(np.float32) + y[:, None].astype(np.float32)
        examples = Examples(torch.from_numpy(x), torch.from_numpy(y))
        return Dataset(
            name="owned", train=examples, test=examples, num_classes=2, train_owners=owners
        )

    return Source(name="owned", load=load)


def test_every_clients_value_is_the_metric_over_all_its_rows_together():
    problem = metric("f1", source=owned(), population=2, rows=30, hidden=4)
    tables, task = problem.data.load(None).train.x, problem.task.prepare(None)
    assert tables.shape == (2, 30, 4)  # of owners 1 and 0, the largest
    weights = task.init(1)["x"]
    assert weights.shape == (3 * 4 + 4 + 4 * 2 + 2,)
    assert torch.equal(weights, torch.full_like(weights, 0.5))
    parts = {
        kind: 1 - values(metric(kind, source=owned(), population=2, rows=30, hidden=4), weights)
        for kind in ("f1", "precision", "recall")
    }
    p, r = parts["precision"], parts["recall"]
    torch.testing.assert_close(parts["f1"], 2 * p * r / (p + r))  # so it is of the same rows
    assert bool((parts["f1"] > 0.5).all())  # the trained network is better than a coin
    elsewhere = torch.rand(26, generator=torch.Generator().manual_seed(3))
    assert not torch.equal(1 - parts["f1"], values(problem, elsewhere))


def test_a_metric_refuses_what_it_cannot_have():
    with pytest.raises(InputError, match="metric: kind must be a known name; got 'f2'"):
        metric("f2")
    with pytest.raises(
        InputError, match=r"metric: population must be at most .* examples, 1; got 3"
    ):
        metric(source=owned(), population=3, rows=40).data.load(None)


# --- functions that are not made of tensors ------------------------------------------------------


def test_a_function_outside_of_torch_is_asked_once_a_query_and_example_whatever_the_width():
    problem, calls = quadratics(dims=5, population=3), []

    def plain(x, example):
        calls.append(type(x))
        z = 20 * x.astype(float) - 10
        return ((example[0] * z + example[1]) @ z + 1) / 50

    task = black_box("plain", query=external(plain), start=problem.task.init)
    strategy, ends = zeroth_order(fedavg(steps=adam(0.05)), directions=2), []
    for chosen, width in ((task, 1), (task, 3), (problem.task, 3)):
        calls.clear()
        scenario = small_world(
            data=problem.data,
            split=problem.split,
            task=chosen,
            strategy=strategy,
            plan=batch_plans.shuffled_epochs(epochs=4, batch_size=1),
            population=3,
            cohort=3,
        )
        ends.append(run_by_hand(scenario, rounds=2, width=width).models[-1]["x"])
        if chosen is task:
            assert calls == [np.ndarray] * (2 * 3 * 4 * 3)  # rounds, clients, steps, queries
    for end in ends[1:]:
        torch.testing.assert_close(ends[0], end, rtol=1e-4, atol=1e-4)


# --- runs that know no accuracy ------------------------------------------------------------------


def test_a_black_box_refuses_a_penalty():
    task = black_box("f", query=lambda params, x: x, start=lambda seed: {})
    with pytest.raises(InputError, match="black_box: f must be queried for values alone"):
        task.loss({}, Batch(*(torch.zeros(1),) * 4), Penalty(of=lambda outputs, mask: mask))


def test_without_hits_there_is_a_loss_and_no_accuracy():
    problem = quadratics(dims=5, population=4)
    scenario = small_world(
        data=problem.data, split=problem.split, task=problem.task, population=4, cohort=4
    )
    prepared = prepare(scenario, Settings(width=1, workers=1, device="cpu"))
    found = evaluate(problem.task, prepared.initial_params, prepared.dealt)
    assert found.accuracy is None
    assert np.isnan(found.personal).all()
    assert found.source == NO_ACCURACY
    assert found.loss == pytest.approx(float(values(problem, prepared.initial_params["x"]).mean()))


def test_losses_alone_can_be_drawn(tmp_path):
    rows = [
        {"round": n, "train_loss": -1.0 / n, "test_loss": -2.0 / n, "clients": {}} for n in (1, 2)
    ]
    plots.draw_curves(tmp_path / "a.png", rows)
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_a_run_without_an_accuracy_is_summed_up_drawn_and_not_compared(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["run", "zeroth_order", "--dims", "10", "--rounds", "3", "--features", "20"]
    assert main([*command, "--workers", "1", "--width", "5", "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    rows = read_metrics(out)
    assert summary["test_accuracy"] is None
    assert summary["best"]["test_loss"] == min(row["test_loss"] for row in rows)
    assert "test_accuracy" not in rows[-1]
    assert "test loss" in said.err
    assert "test accuracy" not in said.err
    assert {path.name for path in (out / "plots").iterdir()} == {"curves.png", "split.png"}
    assert rows[0]["bytes_up"] == 5 * 4 * (10 + 20)  # five clients send d + M numbers
    assert main(["compare", str(out)]) == 2
    assert "compare: runs must have a test accuracy" in capsys.readouterr().err
