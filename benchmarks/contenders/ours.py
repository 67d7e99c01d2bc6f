"""Ours: the cohort runtime, from planning a round to the server's step, messages and all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contenders import Measured, Round, timed
from benchmarks.workloads import Workload, experiment_of
from fedsim.core.trees import Tree
from fedsim.flower.cohort import cohort_exchange
from fedsim.flower.grid import in_process
from fedsim.server.round import begin
from fedsim.server.setup import PreparedRun
from fedsim.testing import run_rounds
from fedsim.training.client_state import ClientStates
from fedsim.training.executors.open import open_executor


@contextmanager
def rounds(workload: Workload, workers: int) -> Iterator[Round]:
    """Rounds of a workload by so many workers."""
    with rounds_of(experiment_of(workload, workers=workers)) as one:
        yield one


@contextmanager
def rounds_of(prepared: PreparedRun) -> Iterator[Round]:
    """Rounds over the in-process Flower grid: messages, training, aggregation."""
    states = ClientStates(prepared.client_template)
    with (
        in_process(),
        open_executor(prepared.trainer, prepared.workers, prepared.templates) as executor,
    ):
        exchange = cohort_exchange(prepared, states, executor)
        held = [begin(prepared)]

        def one(round_num: int) -> Tree:
            after = run_rounds(prepared, exchange, range(round_num, round_num + 1), held[0])
            held[0] = after.held
            return after.models[-1]

        yield one


def measure(workload: Workload, workers: int) -> Measured:
    """The cohort runtime with so many workers."""
    with rounds(workload, workers) as one:
        return timed(one, workload)
