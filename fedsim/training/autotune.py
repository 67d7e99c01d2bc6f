"""Choose how many clients train as one program, and in how many processes.

The choice is measured the first time, and then cached for the model, the batch and the machine; a
run writes its width and workers to its folder. So the same seed gives the same bits from run to run
(docs/decisions/0010-measured-width.md).

Shapes: w clients of a chunk.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.batch import Batch
from fedsim.core.cache import cached
from fedsim.core.machine import count_cores, keep_memory, use_threads
from fedsim.core.sampling import Sampling
from fedsim.core.scenario import BatchPlan
from fedsim.core.trees import Tree
from fedsim.training.oracle import mean_loss
from fedsim.training.trainer import Trainer

WIDTHS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256)
_STEPS, _REPEATS = 2, 3
_CLOSE = 1.05  # among widths this close to the best, the smallest: it takes the least memory
_MUCH_SLOWER = 1.25  # times the best; after two such widths in a row, wider ones are not tried
_BUDGET = 1 << 30  # bytes a chunk may take on a CPU
_WORTH_STARTING = 6.0  # seconds that workers must save before they are worth starting
_SHORT = 0.05  # seconds; a round shorter than this is not worth sharing


class Layout(NamedTuple):
    """The choice: clients a program, processes, and seconds of one step of one client."""

    width: int
    workers: int
    step_seconds: float


def choose(
    trainer: Trainer,
    *,
    broadcast: Any,
    client: Any,
    params: Tree,
    cohort: int,
    rounds: int,
    width: int | None,
    workers: int | None,
) -> Layout:
    """Choose the layout of a run; where width or workers is None, by measurement.

    Args:
        trainer: of any width.
        broadcast: a template of what the server sends.
        client: a template of a client's state.
        params: the initial parameters.
        cohort: clients a round.
        rounds: of the whole run.
        width: clients a program, or None.
        workers: processes, or None.
    """
    if width is not None and workers is not None:
        return Layout(width, workers, float("nan"))
    counts = trainer.population.owned.counts().tolist()
    if not any(counts):  # there is nothing to measure
        return Layout(width or 1, workers or 1, 0.0)
    seconds = _measured(trainer, broadcast, client, params, cohort)
    steps = sum(map(trainer.plan.num_steps, counts)) / len(counts)
    if workers is None:
        workers = _workers(trainer, min(seconds.values()) * steps * cohort, rounds)
    chosen = width or _width(seconds, cohort, workers)
    nearest = min(seconds, key=lambda known: abs(known - chosen))
    return Layout(chosen, workers, seconds[nearest])


def _workers(trainer: Trainer, round_seconds: float, rounds: int) -> int:
    """One process for each core or GPU, where that saves more time than starting them takes."""
    if trainer.device.type == "cuda":
        return torch.cuda.device_count()
    most = count_cores()
    saved = round_seconds * rounds * (1 - 1 / most)
    return most if round_seconds > _SHORT and saved > _WORTH_STARTING else 1


def _width(seconds: Mapping[int, float], cohort: int, workers: int) -> int:
    """The width with which the busiest process finishes first."""

    def round_cost(width: int) -> float:
        chunks = -(-cohort // width)
        return -(-chunks // workers) * min(width, cohort) * seconds[width]

    best = min(map(round_cost, seconds))
    return min(width for width in seconds if round_cost(width) <= _CLOSE * best)


def _measured(
    trainer: Trainer, broadcast: Any, client: Any, params: Tree, cohort: int
) -> dict[int, float]:
    """Seconds of one step of one client at each width worth trying, with one thread."""
    x = trainer.population.dataset.train.x
    shapes = {name: tuple(tensor.shape) for name, tensor in params.items()}
    key = repr(
        (
            trainer.task.name,
            trainer.oracles.name,
            trainer.strategy.name,
            _batch_size(trainer),
            shapes,
            tuple(x.shape[1:]),
            x.dtype,
            trainer.precision,
            trainer.device.type,
            min(cohort, WIDTHS[-1]),
            torch.__version__,
            platform.node(),
            platform.machine(),
            count_cores(),
        )
    )

    def build() -> dict[str, Any]:
        seconds = _race(trainer, broadcast, client, params, cohort)
        return {"widths": np.array(list(seconds)), "seconds": np.array(list(seconds.values()))}

    stored = cached("width", key, build)
    return dict(zip(stored["widths"].tolist(), stored["seconds"].tolist(), strict=True))


def _race(
    trainer: Trainer, broadcast: Any, client: Any, params: Tree, cohort: int
) -> dict[int, float]:
    """Time a trial plan at each width, until wider ones are clearly slower."""
    counts = trainer.population.owned.counts()
    busy = torch.argsort(counts, descending=True, stable=True)[: int((counts > 0).sum())].tolist()
    trial = replace(trainer, plan=_trial_plan(_batch_size(trainer)))
    most = min(len(busy), cohort, _affordable(trainer, params))
    keep_memory()
    seconds: dict[int, float] = {}
    slower = 0
    with use_threads(1):
        for width in (w for w in WIDTHS if w == 1 or w <= most):
            clients = busy[:width]
            states = _repeated(client, width)
            times = []
            for _ in range(_REPEATS + 1):
                began = time.perf_counter()
                trained = trial.train(1, broadcast, clients, states)
                trained.losses.sum().item()  # waits for a GPU
                times.append(time.perf_counter() - began)
            seconds[width] = min(times[1:]) / (width * _STEPS)  # noise only adds time
            slower = slower + 1 if seconds[width] > _MUCH_SLOWER * min(seconds.values()) else 0
            if slower == 2:
                break
    return seconds


def _trial_plan(batch_size: int) -> BatchPlan:
    """`_STEPS` full batches for every client, in the order of its examples: only timed."""

    def schedule(
        counts: Tensor, keys: Tensor, round_num: int, scores: Tensor | None = None
    ) -> Tensor:
        places = torch.arange(_STEPS * batch_size) % counts.unsqueeze(1)
        return places.reshape(len(counts), _STEPS, batch_size)

    return BatchPlan(
        name="trial",
        schedule=schedule,
        num_steps=lambda count: _STEPS,
        sampling=Sampling(kind="ordered", words="in order"),
        expected=lambda count: float(batch_size),
    )


def _batch_size(trainer: Trainer) -> int:
    """The average batch size of the client with most examples."""
    return max(1, round(trainer.plan.expected(int(trainer.population.owned.counts().max()))))


def _repeated(client: Any, width: int) -> Any:
    """A stack of copies of one client's state."""
    return trees.map_leaves(client, lambda tensor: tensor.expand(width, *tensor.shape))


def _affordable(trainer: Trainer, params: Tree) -> int:
    """How many clients of a chunk fit into the memory budget."""
    budget = _BUDGET
    if trainer.device.type == "cuda":
        budget = torch.cuda.mem_get_info(trainer.device)[0] // 2
    return max(1, budget // client_bytes(trainer, params))


def client_bytes(trainer: Trainer, params: Tree) -> int:
    """Estimate the memory of one client of a chunk while it trains, in bytes.

    Six trees (parameters, gradient, update, and what a step makes of them) and twice what autograd
    keeps for one batch.
    """
    dataset, size = trainer.population.dataset, _batch_size(trainer)
    rows = torch.arange(size) % len(dataset.train.y)
    rows = rows.to(trainer.device)
    x, y = dataset.ready(dataset.train.x[rows]), dataset.train.y[rows]
    ones = torch.ones(size, device=trainer.device)
    batch = Batch(x, y, ones, torch.zeros((), dtype=torch.int64, device=trainer.device))
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    point = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        mean_loss(trainer.task, point, batch)
    return 6 * trees.num_bytes(params) + 2 * sum(kept.values()) + (1 << 16)
