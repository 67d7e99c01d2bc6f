"""The scenarios on the published data, through the command line. Slow; CI runs them."""

import json

import pytest

from fedsim.cli import main
from fedsim.data import femnist
from fedsim.runs.folder import read_metrics

pytestmark = pytest.mark.slow

FASHION = ["fashion_mnist_dirichlet", "--alpha", "0.3", "--population", "200", "--cohort", "20"]


def run(out, real_data, *arguments):
    assert main(["run", *arguments, "--data-dir", str(real_data), "--out", str(out)]) == 0
    return read_metrics(out)


def test_fashion_mnist_reaches_77_percent_in_30_rounds(tmp_path, real_data):
    rows = run(
        tmp_path / "run",
        real_data,
        *FASHION,
        "--rounds",
        "30",
        "--local-epochs",
        "2",
        "--seed",
        "1",
    )
    assert rows[-1]["test_accuracy"] >= 0.77


def test_width_one_and_ten_end_within_1e_4_of_test_loss_after_three_rounds(tmp_path, real_data):
    losses = [
        run(
            tmp_path / width,
            real_data,
            *FASHION,
            "--rounds",
            "3",
            "--local-epochs",
            "2",
            "--seed",
            "1",
            "--width",
            width,
        )[-1]["test_loss"]
        for width in ("1", "10")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_femnist_writers_are_the_clients(tmp_path, real_data):
    rows = run(tmp_path / "run", real_data, "femnist_writers", "--rounds", "6")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    writers = set(femnist().load(real_data).train_owners)
    assert summary["clients"]["population"] == len(writers) == 105
    assert summary["personal_accuracy"]["of"] == "each client's own test examples"
    assert rows[-1]["test_loss"] < 3.5  # 62 classes: guessing costs log(62) = 4.1


def test_the_pfl_benchmark_trains_and_its_loss_falls(tmp_path, real_data):
    rows = run(
        tmp_path / "run", real_data, "cifar10_pfl", "--rounds", "10", "--evaluate-every", "5"
    )
    first, last = (row["test_loss"] for row in rows if "test_loss" in row)
    assert last < first < 2.303  # guessing costs log(10)
    losses = [row["train_loss"] for row in rows]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_adapters_on_a_pretrained_base_learn_from_sst2(tmp_path, real_data):
    rows = run(
        tmp_path / "run",
        real_data,
        "text_lora",
        "--rounds",
        "12",
        "--evaluate-every",
        "2",
        "--seed",
        "1",
        "--width",
        "3",
    )
    accuracies = [row["test_accuracy"] for row in rows if "test_accuracy" in row]
    assert max(accuracies) > 0.68  # the base under its fresh classifier begins at 0.62
