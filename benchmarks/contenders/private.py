"""Opacus in the same loop as the floor: per-example gradients by hooks, or by ghost clipping.

Tuned as a good user would: the model is wrapped once, and one optimiser serves all clients (SGD has
no memory to reset). Batches are fixed, as in the plain workload; no accountant is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn

from benchmarks.contenders import Measured, timed
from benchmarks.contenders.loops import Learner, rounds
from benchmarks.workloads import CLIP_NORM, LR, NOISE_MULTIPLIER, Workload, World, open_world


def learner(world: World, *, ghost: bool) -> tuple[nn.Module, Learner]:
    """DP-SGD: clip each example's gradient, add noise to the sum, divide by the batch's size."""
    model = world.workload.build().train()
    criterion = nn.CrossEntropyLoss()
    plain = torch.optim.SGD(model.parameters(), lr=LR)
    bounds = {
        "noise_multiplier": NOISE_MULTIPLIER,
        "max_grad_norm": CLIP_NORM,
        "expected_batch_size": world.workload.batch,
    }
    if ghost:
        wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=CLIP_NORM)
        optimiser = DPOptimizerFastGradientClipping(plain, **bounds)
        criterion = DPLossFastGradientClipping(wrapped, optimiser, criterion)
    else:
        wrapped = GradSampleModule(model)
        optimiser = DPOptimizer(plain, **bounds)
    x, y = world.x, world.y

    def learn(batches: Sequence[Tensor]) -> None:
        for used in batches:
            optimiser.zero_grad(set_to_none=True)
            criterion(wrapped(x[used]), y[used]).backward()
            optimiser.step()

    return wrapped, learn


def measure(workload: Workload, workers: int, ghost: bool) -> Measured:
    """Opacus by one process or several."""
    with rounds(open_world(workload), partial(learner, ghost=ghost), workers) as one:
        return timed(one, workload)
