"""The same numbers on a GPU. Machines without one skip these tests, and say so."""

import pytest
import torch

from fedsim.core.settings import Settings
from fedsim.models import vision
from fedsim.models.black_box import quadratics
from fedsim.models.lora import adapt
from fedsim.models.tasks import classification
from fedsim.runs.description import describe
from fedsim.runs.runner import run_prepared
from fedsim.server.setup import prepare
from strategies import batch_plans, fedsvd, fzoos
from strategies.aggregators import mean
from strategies.shared.surrogate import Surrogate
from strategies.step_rules import adam, sgd
from tests.helpers.worlds import small_world

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def final_loss(out, watcher, device, precision="float32", width=3, **parts):
    mlp = classification("mlp", lambda: vision.mlp(5, 8, 3))
    scenario = small_world(**({"task": mlp} | parts))
    settings = Settings(width=width, workers=1, device=device, precision=precision)
    prepared = prepare(scenario, settings)
    description = describe("world", {}, prepared, "cohort")
    return run_prepared(prepared, description, [watcher], out=out).summary["test_loss"]


def test_a_run_on_a_gpu_ends_as_on_the_cpu(tmp_path, watcher):
    losses = [final_loss(tmp_path / device, watcher, device) for device in ("cpu", "cuda")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_same_seed_gives_the_same_bits_on_a_gpu(tmp_path, watcher):
    losses = [final_loss(tmp_path / name, watcher, "cuda") for name in ("first", "second")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_coarser_arithmetic_learns_nearly_the_same_model(tmp_path, watcher, precision):
    exact = final_loss(tmp_path / "exact", watcher, "cuda")
    assert final_loss(tmp_path / "coarse", watcher, "cuda", precision) == pytest.approx(
        exact, rel=0.05
    )


def test_frozen_weights_and_an_svd_are_on_the_gpu_too(tmp_path, watcher):
    task = classification("mlp", lambda: adapt(vision.mlp(5, 8, 3), "1|3", rank=2, alpha=2.0))
    parts = {"task": task, "strategy": fedsvd(steps=sgd(0.1))}
    cpu, gpu = (final_loss(tmp_path / name, watcher, name, **parts) for name in ("cpu", "cuda"))
    assert gpu == pytest.approx(cpu, rel=1e-4)


def test_a_black_box_ends_on_a_gpu_as_on_the_cpu(tmp_path, watcher):
    problem = quadratics(dims=10, population=3)
    parts = {
        "data": problem.data,
        "split": problem.split,
        "task": problem.task,
        "strategy": fzoos(steps=adam(0.02), surrogate=Surrogate(features=64, noise=1e-2)),
        "plan": batch_plans.shuffled_epochs(epochs=5, batch_size=1),
        "aggregator": mean("uniform"),
        "population": 3,
        "cohort": 3,
    }
    cpu, gpu = (final_loss(tmp_path / name, watcher, name, **parts) for name in ("cpu", "cuda"))
    assert gpu == pytest.approx(cpu, rel=1e-2)
