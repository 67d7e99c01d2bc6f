"""The cost of example-level privacy: a round with DP-SGD, one without, and Opacus.

    python -m benchmarks.private_cost [--models lenet mlp] [--repeats 9] [--out FILE.json]

20 clients of 200 random images of 28x28, one epoch. All contenders live in one process of one
thread and take turns, a round each, the other way round in every other repeat; ratios are taken
within a repeat, and medians over repeats are shown. Ours is whole: planning, Flower Messages,
training, aggregation, and with `dp_sgd` the ledger's own rules. The peers' batches are made
beforehand, and Opacus's engines, one a client, are made once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.contenders import Round, loops, plain
from benchmarks.contenders.ours import rounds_of
from benchmarks.contenders.private import engines
from benchmarks.workloads import (
    CLIP_NORM,
    NOISE_MULTIPLIER,
    SEED,
    Workload,
    open_world,
    scenario_of,
)
from fedsim.core.machine import keep_memory
from fedsim.core.scenario import Scenario
from fedsim.core.settings import Settings
from fedsim.models import vision
from fedsim.server.setup import prepare
from privacy import dp_sgd
from strategies import batch_plans

_EXAMPLES, _BATCH = 200, 25
_BUILDS = {
    "lenet": lambda: vision.lenet(10),
    "mlp": lambda: vision.mlp(28 * 28, 128, 10),
}
_PLAIN, _HOOKS, _GHOST = "ours", "opacus hooks", "opacus ghost"
_BASES = (_PLAIN, _HOOKS, _GHOST)  # what the others are compared with


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=_BUILDS, default=list(_BUILDS))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # for all contenders
    results = {}
    for name in given.models:
        seconds = _seconds(name, given.repeats)
        print(_table(name, seconds), flush=True)
        results[name] = seconds
    if given.out:
        given.out.write_text(json.dumps(results) + "\n")


def _workload(name: str, rounds: int) -> Workload:
    return Workload(
        name=name,
        text=f"{name}: 20 clients, {_EXAMPLES} images 28x28, batch {_BATCH}, 1 epoch",
        population=20,
        cohort=20,
        examples=_EXAMPLES,
        batch=_BATCH,
        shape=(1, 28, 28),
        build=_BUILDS[name],
        rounds=rounds,
    )


def _seconds(name: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each timed round, by contender."""
    workload = _workload(name, repeats)
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="opacus")
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        ones = {who: stack.enter_context(made) for who, made in _contenders(workload)}
        seconds: dict[str, list[float]] = {who: [] for who in ones}
        for round_num in range(1, workload.last_round + 1):
            for who in ones if round_num % 2 else reversed(ones):
                began = time.perf_counter()
                ones[who](round_num)
                seconds[who].append(time.perf_counter() - began)
    return {who: own[1:] for who, own in seconds.items()}  # the first warms up


def _contenders(workload: Workload) -> Iterator[tuple[str, AbstractContextManager[Round]]]:
    """Each one's name, and a context that gives its rounds."""
    scenario = scenario_of(workload)
    private = replace(scenario, mechanism=dp_sgd(noise_multiplier=NOISE_MULTIPLIER, clip=CLIP_NORM))
    steps = _EXAMPLES // _BATCH
    poisson = batch_plans.poisson_batches(steps=steps, sampling_prob=1 / steps)
    world = open_world(workload)
    yield _PLAIN, _ours(scenario)
    yield "ours, dp_sgd", _ours(private)
    yield "ours, dp_sgd, Poisson", _ours(replace(private, plan=poisson))
    yield "plain loop", loops.rounds(world, plain.learner, workers=1)
    yield _HOOKS, engines(world, "hooks")
    yield _GHOST, engines(world, "ghost")


@contextmanager
def _ours(scenario: Scenario) -> Iterator[Round]:
    """The cohort runtime, whose width is measured as for a user."""
    settings = Settings(device="cpu", seed=SEED, workers=1)
    with rounds_of(prepare(scenario, settings)) as one:
        yield one


def _table(name: str, seconds: dict[str, list[float]]) -> str:
    lines = [
        f"\n{_workload(name, 1).text}",
        f"  {'contender':<22}{'s/round':>9}" + "".join(f"{'/ ' + base:>16}" for base in _BASES),
    ]
    for who, own in seconds.items():
        ratios = [
            statistics.median(a / b for a, b in zip(own, seconds[base], strict=True))
            for base in _BASES
        ]
        line = "".join(f"{ratio:>16.2f}" for ratio in ratios)
        lines.append(f"  {who:<22}{statistics.median(own):>9.4f}{line}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
