"""A loop over clients with no federated machinery, in this process or split over several.

What is inside a client's turn is a `Learner`: plain SGD for the floor, Opacus for its private one.
Processes are forked once; examples are shared with them as they are, parameters and sums lie in
shared memory, and a barrier on either side of a round is all they say to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, multiprocessing, nn

from benchmarks.contenders import Round
from benchmarks.workloads import Turn, World

Learner = Callable[[Sequence[Tensor]], None]
"""Takes a client's steps, from the model's parameters as they are, in place."""

MakeLearner = Callable[[World], tuple[nn.Module, Learner]]
"""A learner, and the model that it trains."""

_STOP = 0  # no round has this number


@contextmanager
def rounds(world: World, make: MakeLearner, workers: int) -> Iterator[Round]:
    """Rounds of federated averaging by so many processes of one thread each."""
    if workers > 1:
        with _dealt(world, make, workers) as one:
            yield one
        return
    params = [value.clone() for value in world.params.values()]
    total = [torch.zeros_like(value) for value in params]
    model, learner = make(world)

    def one(round_num: int) -> dict[str, Tensor]:
        add_turns(model, learner, world.plan[round_num], params, total)
        step(params, [total], world.workload.cohort)
        return dict(zip(world.params, params, strict=True))

    yield one


@contextmanager
def _dealt(world: World, make: MakeLearner, workers: int) -> Iterator[Round]:
    """The same with several processes, over which the clients are split."""
    context = multiprocessing.get_context("fork")
    params = [value.clone().share_memory_() for value in world.params.values()]
    totals = [[torch.zeros_like(value).share_memory_() for value in params] for _ in range(workers)]
    asked = torch.zeros(1, dtype=torch.int64).share_memory_()
    gate = context.Barrier(workers + 1)

    def work(place: int) -> None:
        torch.manual_seed(place)
        model, learner = make(world)
        while True:
            gate.wait()
            if int(asked) == _STOP:
                return
            turns = world.plan[int(asked)][place::workers]
            add_turns(model, learner, turns, params, totals[place])
            gate.wait()

    def one(round_num: int) -> dict[str, Tensor]:
        asked.fill_(round_num)
        gate.wait()
        gate.wait()
        step(params, totals, world.workload.cohort)
        return dict(zip(world.params, params, strict=True))

    processes = [
        context.Process(target=work, args=(place,), daemon=True) for place in range(workers)
    ]
    for process in processes:
        process.start()
    yield one
    asked.fill_(_STOP)
    gate.wait()
    for process in processes:
        process.join()


def add_turns(
    model: nn.Module, learner: Learner, turns: list[Turn], params: list[Tensor], total: list[Tensor]
) -> None:
    """Train clients one after the other; add their updates to `total`, in place."""
    own = list(model.parameters())
    for turn in turns:
        with torch.no_grad():
            for value, start in zip(own, params, strict=True):
                value.copy_(start)
        learner(turn.batches)
        with torch.no_grad():
            for part, value, start in zip(total, own, params, strict=True):
                part.add_(value - start)


def step(params: list[Tensor], totals: list[list[Tensor]], cohort: int) -> None:
    """Apply the mean update, and reset the sums."""
    for total in totals:
        for value, part in zip(params, total, strict=True):
            value.add_(part, alpha=1 / cohort)
            part.zero_()
