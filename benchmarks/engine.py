"""The cohort runtime beside a plain PyTorch loop on the same clients, batches and steps.

    python -m benchmarks.engine [--repeats 3]

Machines are shared and noisy: contenders take turns within each repeat, each in a process of its
own, and what is reported is the median and the ratio within a repeat, never seconds alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from fedsim import models, plans, selection, splits
from fedsim.aggregate import mean
from fedsim.data import Dataset, Examples, Source
from fedsim.experiment import Experiment, Settings, open_experiment
from fedsim.flower.client import client_app, cohort_answer
from fedsim.flower.grid import CohortGrid, in_process
from fedsim.flower.server import grid_exchange
from fedsim.rounds import Work, finish_round, plan_round
from fedsim.states import ClientStates
from fedsim.steps import sgd
from fedsim.tasks import classification
from fedsim.types import Scenario
from privacy import none
from strategies import fedavg

WORKLOADS = {
    "overhead": {
        "text": "1000 / 100 clients, 18 samples, batch 6, softmax regression 64 -> 10",
        "population": 1000, "cohort": 100, "examples": 18, "batch": 6, "shape": (64,),
        "build": lambda: models.softmax_regression(64, 10), "rounds": 10,
    },
    "lenet": {
        "text": "200 / 20 clients, 300 samples, batch 32, LeNet-like, 28x28",
        "population": 200, "cohort": 20, "examples": 300, "batch": 32, "shape": (1, 28, 28),
        "build": lambda: models.lenet(10), "rounds": 2,
    },
    "pfl-cifar10": {
        "text": "1000 / 50 clients, 50 images, batch 10, the pfl benchmark's CNN",
        "population": 1000, "cohort": 50, "examples": 50, "batch": 10, "shape": (3, 32, 32),
        "build": models.pfl_cnn, "rounds": 1,
    },
}  # fmt: skip
LR = 0.1
CONTENDERS = ("plain loop", "cohort runtime")


def opened(workload: dict) -> Experiment:
    """The workload's world: random examples, equal clients."""
    clients = np.repeat(np.arange(workload["population"]), workload["examples"])
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(len(clients), *workload["shape"], generator=draw)
    y = torch.randint(10, (len(clients),), generator=draw)
    dataset = Dataset(
        name="random", train=Examples(x, y), test=Examples(x[:10], y[:10]), num_classes=10
    )
    scenario = Scenario(
        data=Source(name="random", load=lambda _: dataset),
        split=splits.given(clients),
        task=classification("model", workload["build"]),
        strategy=fedavg(steps=sgd(LR)),
        plan=plans.shuffled_epochs(epochs=1, batch_size=workload["batch"]),
        selection=selection.uniform(),
        aggregator=mean(),
        mechanism=none(),
        population=workload["population"],
        cohort=workload["cohort"],
        rounds=workload["rounds"],
    )
    return open_experiment(scenario, Settings(device="cpu"))


def cohort_runtime(experiment: Experiment) -> Callable[[int], None]:
    """One round over the in-process Flower grid: messages, training, aggregation."""
    scenario = experiment.scenario
    answer = cohort_answer(experiment, ClientStates(experiment.client_template))
    grid = CohortGrid(
        client_app(lambda _: experiment), num_nodes=scenario.population, cohort=answer
    )
    exchange = grid_exchange(grid, experiment)
    held = [scenario.strategy.init(experiment.initial_params)]

    def one(round_num: int) -> None:
        work = plan_round(scenario, held[0], round_num, {}, 1)
        held[0] = finish_round(scenario, held[0], work, exchange(work), 1).server

    return one


def plain_loop(experiment: Experiment, build: Callable[[], nn.Module]) -> Callable[[int], None]:
    """What anybody would write: torch.optim.SGD, client after client, no federated machinery."""
    scenario, trainer = experiment.scenario, experiment.trainer
    x, y = experiment.population.dataset.train
    model = build().train()
    params = {name: value.clone() for name, value in experiment.initial_params.items()}

    def batches(work: Work, client: int) -> Iterator[torch.Tensor]:
        rows, mask = trainer._schedule(work.round_num, torch.tensor([client]))
        for step in range(rows.shape[1]):
            yield rows[0, step][mask[0, step] > 0]

    def one(round_num: int) -> None:
        server = scenario.strategy.init(params)
        work = plan_round(scenario, server, round_num, {}, 1)
        total = {name: torch.zeros_like(value) for name, value in params.items()}
        for client in work.clients:
            model.load_state_dict(params)
            optimiser = torch.optim.SGD(model.parameters(), lr=LR)
            for used in batches(work, client):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(x[used]), y[used]).backward()
                optimiser.step()
            for name, value in model.named_parameters():
                total[name] += (value.detach() - params[name]) / len(work.clients)
        for name, value in total.items():
            params[name] += value

    return one


def measure(workload: str, contender: str) -> float:
    """Seconds a round of one contender, in this process; the first round is not counted."""
    torch.set_num_threads(1)
    chosen = WORKLOADS[workload]
    experiment = opened(chosen)
    with in_process():
        if contender == "plain loop":
            one = plain_loop(experiment, chosen["build"])
        else:
            one = cohort_runtime(experiment)
        one(1)
        began = time.perf_counter()
        for round_num in range(2, 2 + chosen["rounds"]):
            one(round_num)
    return (time.perf_counter() - began) / chosen["rounds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("WORKLOAD", "CONTENDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(measure(*given.one))
        return
    results = []
    print(f"seconds a round, 1 thread, medians of {given.repeats} interleaved repeats\n")
    print(f"{'workload':<14}{'plain loop':>12}{'cohort':>12}{'ratio':>8}")
    for name, workload in WORKLOADS.items():
        times: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
        for _ in range(given.repeats):
            for contender in CONTENDERS:
                command = [sys.executable, "-m", "benchmarks.engine", "--one", name, contender]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                times[contender].append(float(done.stdout))
        pairs = zip(times["plain loop"], times["cohort runtime"], strict=True)
        ratio = statistics.median(ours / plain for plain, ours in pairs)
        medians = [statistics.median(times[contender]) for contender in CONTENDERS]
        print(f"{name:<14}{medians[0]:>12.4f}{medians[1]:>12.4f}{ratio:>8.2f}   {workload['text']}")
        results.append({"workload": name, "seconds": times, "ratio": ratio})
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main()
