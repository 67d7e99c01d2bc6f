"""Opacus in the same loop as the floor: per-example gradients by hooks, or by ghost clipping.

`learner` is tuned as a good user would: the model is wrapped once, one optimiser serves all clients
(SGD has no memory to reset), no accountant is kept. `engines` gives every client a PrivacyEngine,
made once. Batches are fixed, as in the plain workload.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from opacus import GradSampleModule, PrivacyEngine
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.contenders import Measured, Round, timed
from benchmarks.contenders.loops import Learner, add_turns, rounds, step
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
    return wrapped, _loop(world, wrapped, optimiser, criterion)


def _loop(
    world: World, model: nn.Module, optimiser: torch.optim.Optimizer, criterion: nn.Module
) -> Learner:
    x, y = world.x, world.y

    def learn(batches: Sequence[Tensor]) -> None:
        for used in batches:
            optimiser.zero_grad(set_to_none=True)
            criterion(model(x[used]), y[used]).backward()
            optimiser.step()

    return learn


def _engine(world: World, client: int, mode: str) -> tuple[nn.Module, Learner]:
    """One client's PrivacyEngine around a model and an optimiser of its own."""
    size = world.workload.examples
    own = TensorDataset(*(part[client * size : (client + 1) * size] for part in (world.x, world.y)))
    model, criterion = world.workload.build().train(), nn.CrossEntropyLoss()
    made = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LR),
        criterion=criterion,
        data_loader=DataLoader(own, batch_size=world.workload.batch),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIP_NORM,
        poisson_sampling=False,
        grad_sample_mode=mode,
    )
    wrapped, optimiser = made[:2]
    return wrapped, _loop(world, wrapped, optimiser, made[2] if mode == "ghost" else criterion)


@contextmanager
def engines(world: World, mode: str) -> Iterator[Round]:
    """Rounds of clients with a PrivacyEngine each, in this process. mode: "hooks" or "ghost"."""
    clients = [_engine(world, client, mode) for client in range(world.workload.population)]
    params = [value.clone() for value in world.params.values()]
    total = [torch.zeros_like(value) for value in params]

    def one(round_num: int) -> dict[str, Tensor]:
        for turn in world.plan[round_num]:
            add_turns(*clients[turn.client], [turn], params, total)
        step(params, [total], world.workload.cohort)
        return dict(zip(world.params, params, strict=True))

    yield one


def measure(workload: Workload, workers: int, ghost: bool) -> Measured:
    """Opacus by one process or several."""
    with rounds(open_world(workload), partial(learner, ghost=ghost), workers) as one:
        return timed(one, workload)
