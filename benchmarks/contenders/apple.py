"""Apple's pfl (PyPI: pfl): its simulated backend, FedAvg and PyTorch adapter.

Tuned: clients' tensors are ordered beforehand in the order in which their epoch uses them, so a
batch is a slice; no evaluation and no printing. Several processes are its own distributed mode:
each runs this same program, and torch.distributed (gloo) sums their updates.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders import Measured
from benchmarks.workloads import LR, Workload, World, open_world

_RANK, _ADDRESSES = "PFL_WORKER_RANK", "PFL_WORKER_ADDRESSES"  # of pfl


class _Model(nn.Module):
    """The two methods that pfl wants of a module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.train()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.inner(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, object]:
        return {}


def measure(workload: Workload, workers: int) -> Measured:
    """All rounds of pfl. With several workers this process is the first and starts the others."""
    others = []
    if workers > 1 and _RANK not in os.environ:
        os.environ[_ADDRESSES] = ",".join(f"127.0.0.1:{_free_port()}" for _ in range(workers))
        command = [sys.executable, "-m", "benchmarks.engine", "--one", workload.name]
        others = [
            subprocess.Popen(
                [*command, f"pfl-{workers}"],
                env=os.environ | {_RANK: str(rank)},
                stdout=subprocess.DEVNULL,
            )
            for rank in range(1, workers)
        ]
        os.environ[_RANK] = "0"
    measured = _run(open_world(workload))
    for process in others:
        process.wait()
    return measured


def _run(world: World) -> Measured:
    """Run and time all rounds. Imports are local: pfl joins the other processes on import."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm import FederatedAveraging, NNAlgorithmParams
    from pfl.callback.base import TrainingProcessCallback
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    workload = world.workload
    module = _Model(workload.build())
    module.inner.load_state_dict(world.params)
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    dataset = _make_dataset(world)
    marks: list[float] = []

    class Clock(TrainingProcessCallback):
        def after_central_iteration(self, *args: object, **kwargs: object) -> tuple[bool, Metrics]:
            marks.append(time.perf_counter())
            return False, Metrics()

    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=workload.last_round,
            evaluation_frequency=workload.last_round,
            train_cohort_size=workload.cohort,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=dataset, val_data=dataset),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LR, local_batch_size=workload.batch
        ),
        callbacks=[Clock()],
        send_metrics_to_platform=False,
    )
    seconds = [end - start for start, end in pairwise(marks)]
    params = {name: value.detach() for name, value in module.inner.named_parameters()}
    return Measured(seconds, params)


def _make_dataset(world: World) -> Any:
    """A pfl dataset whose users are the turns of all rounds, in order."""
    from pfl.data import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset

    users = {
        (number, turn.client): torch.cat(turn.batches)
        for number, turns in world.plan.items()
        for turn in turns
    }
    order = iter(users)

    def make(user: tuple[int, int]) -> PyTorchTensorDataset:
        rows = users[user]
        return PyTorchTensorDataset((world.x[rows], world.y[rows]), user_id=str(user))

    return FederatedDataset(make, lambda: next(order))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
