"""Flower's own simulation engine, on Ray, with its FedAvg.

Tuned: two actors of one CPU and one thread each; one model and one set of tensors in each actor,
opened once; torch state dicts as ArrayRecords; no evaluation; no dashboard, no logs, no telemetry;
as many nodes as a cohort has clients, for the engine looks at every node in turn; replies polled
five times as often as the engine does by itself. Only which clients a round trains is replaced, so
that they are those of the others. `run_simulation` is deprecated, but `flwr run` would first build
an environment and install the app into it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.contenders import Measured
from benchmarks.contenders.loops import Learner
from benchmarks.contenders.plain import learner
from benchmarks.workloads import WORKLOADS, Workload, World, open_world

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
if "FLWR_HOME" not in os.environ:  # actors inherit it
    _HOME = tempfile.TemporaryDirectory(prefix="flwr-home-")  # until this process ends
    os.environ["FLWR_HOME"] = _HOME.name

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

_ACTORS = 2
_POLL = 0.02  # seconds


@cache
def _opened(name: str) -> tuple[World, nn.Module, Learner]:
    """An actor's world, made by its first message."""
    torch.set_num_threads(1)
    world = open_world(WORKLOADS[name])
    return world, *learner(world)


def _client_app(name: str) -> ClientApp:
    """Trains the client that the message names, with the floor's own steps."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        world, model, learn = _opened(name)
        config = message.content["config"]
        turn = world.plan[config["server-round"]][config["place"]]
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        learn(turn.batches)
        content = RecordDict(
            {
                "arrays": ArrayRecord(model.state_dict()),
                "metrics": MetricRecord({"num-examples": world.workload.examples}),
            }
        )
        return Message(content, reply_to=message)

    return app


class _SameCohorts(FedAvg):
    """FedAvg over the cohorts of the plan; notes when each round begins."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.cohort = workload.cohort
        self.began: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.began.append(time.perf_counter())
        nodes = sorted(grid.get_node_ids())
        return [
            Message(
                RecordDict(
                    {
                        "arrays": arrays,
                        "config": ConfigRecord({"server-round": server_round, "place": place}),
                    }
                ),
                nodes[place],
                "train",
            )
            for place in range(self.cohort)
        ]


def measure(workload: Workload) -> Measured:
    """All rounds on Flower's engine; a round lasts until the next begins, or the run ends."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    first: dict[str, Tensor] = open_world(workload).params
    strategy = _SameCohorts(workload)
    results: list[ArrayRecord] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        grid.pull_interval = _POLL
        while len(list(grid.get_node_ids())) < workload.cohort:
            time.sleep(_POLL)
        result = strategy.start(grid, ArrayRecord(first), num_rounds=workload.last_round)
        strategy.began.append(time.perf_counter())
        results.append(result.arrays)

    run_simulation(
        server,
        _client_app(workload.name),
        num_supernodes=workload.cohort,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": _ACTORS, "log_to_driver": False, "logging_level": "error"},
        },
    )
    marks = strategy.began[1:]
    seconds = [end - start for start, end in pairwise(marks)]
    return Measured(seconds, dict(results[0].to_torch_state_dict()))
