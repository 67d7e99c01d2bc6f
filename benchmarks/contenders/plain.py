"""The floor: a plain PyTorch loop with a new torch.optim.SGD for each client."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.contenders import Measured, timed
from benchmarks.contenders.loops import Learner, rounds
from benchmarks.workloads import LR, Workload, World, open_world


def learner(world: World) -> tuple[nn.Module, Learner]:
    """Ordinary SGD on one model that all clients share."""
    model = world.workload.build().train()
    x, y = world.x, world.y

    def learn(batches: Sequence[Tensor]) -> None:
        optimiser = torch.optim.SGD(model.parameters(), lr=LR)
        for used in batches:
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[used]), y[used]).backward()
            optimiser.step()

    return model, learn


def measure(workload: Workload, workers: int) -> Measured:
    """The floor by one process or several."""
    with rounds(open_world(workload), learner, workers) as one:
        return timed(one, workload)
