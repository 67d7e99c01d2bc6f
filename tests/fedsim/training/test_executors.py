"""Workers: the same numbers as one process, and nothing is lost when one is killed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core import trees
from fedsim.core.settings import Settings
from fedsim.runs.description import describe
from fedsim.runs.runner import run_prepared
from fedsim.server.setup import prepare
from fedsim.training.client_state import ClientStates
from fedsim.training.executor import InThisProcess
from fedsim.training.executors.open import open_executor
from fedsim.training.executors.pickling import pack, unpack
from fedsim.training.executors.pool import (
    Worker,
    WorkerError,
    WorkerFactory,
    WorkerLost,
    WorkerPool,
)
from fedsim.world import partition
from strategies.step_rules import sgd
from tests.helpers.worlds import remembering, small_world

SIZES = (1, 5, 8, 0, 12, 20, 3, 0, 7, 2)


def world(width=2, workers=2, **changes):
    owners = np.repeat(np.arange(len(SIZES)), SIZES)
    given = {"strategy": remembering(sgd(0.1)), "split": partition.given(owners)}
    scenario = small_world(sizes=SIZES, cohort=len(SIZES), **(given | changes))
    return prepare(scenario, Settings(width=width, workers=workers))


def parts_of(prepared):
    """What opens an executor."""
    return prepared.trainer, prepared.workers, prepared.templates


def copied(trained):
    """A copy of a result, whose memory a worker may overwrite."""
    parts = trained.diff, trained.states, trained.num_examples, trained.losses
    return trained.clients, trees.map_leaves(parts, torch.clone)


def one_round(executor, prepared, round_num=1):
    states = ClientStates(prepared.client_template)
    chunks = list(prepared.trainer.chunks(range(len(SIZES))))
    made = executor.train(
        round_num, prepared.broadcast_template, chunks, lambda c: states.fetch(c, {})
    )
    return [copied(trained) for trained in made]


def same(ours, theirs):
    assert [clients for clients, _ in ours] == [clients for clients, _ in theirs]
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        for left, right in zip(trees.leaves(a), trees.leaves(b), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)


def test_an_unpacked_trainer_gives_the_same_bits():
    prepared = world()
    packed = pack(prepared.trainer)
    again = unpack(packed.code, packed.tensors, torch.device("cpu"))
    same(
        one_round(InThisProcess(again), prepared),
        one_round(InThisProcess(prepared.trainer), prepared),
    )


def test_packing_leaves_out_test_data_and_keeps_tensors_apart_from_the_code():
    scenario = small_world(sizes=(900, 900))
    trainer = prepare(scenario, Settings(width=1, workers=1)).trainer
    packed = pack(trainer)
    x = trainer.population.dataset.train.x
    assert any(torch.equal(tensor, x) for tensor in packed.tensors)
    assert len(packed.code) < x.numel() * 4
    unpacked = unpack(packed.code, packed.tensors, torch.device("cpu"))
    assert len(unpacked.population.dataset.test.y) == 0


# --- the order of results, with workers that follow a script --------------------------------------


class ScriptedWorker(Worker):
    """A worker in this process, which dies when it is to return certain chunks."""

    def __init__(self, trainer, log, dies_at=()):
        self.trainer, self.log, self.dies_at = trainer, log, dies_at
        self.jobs = []

    def send(self, job):
        self.log.append(job.number)
        self.jobs.append(job)

    def receive(self):
        job = self.jobs.pop(0)
        if job.number in self.dies_at:
            raise WorkerLost
        return job.number, self.trainer.train(
            job.round_num, self.broadcast, job.clients, job.states
        )

    def release(self, number):
        pass

    def stop(self):
        pass


class ScriptedWorkers(WorkerFactory):
    """Starts them; of two, the later one always has its result first."""

    def __init__(self, trainer, dying=()):
        self.trainer, self.dying, self.log = trainer, list(dying), []

    def start(self):
        return ScriptedWorker(self.trainer, self.log, self.dying.pop(0) if self.dying else ())

    def publish(self, broadcast):
        ScriptedWorker.broadcast = broadcast

    def wait(self, workers):
        return [next(worker for worker in reversed(workers) if worker.jobs)]

    def close(self):
        pass

    def memory(self, workers):
        return 0


def test_results_come_in_the_chunks_order_whichever_worker_was_faster():
    prepared = world()
    factory = ScriptedWorkers(prepared.trainer)
    executor = WorkerPool(factory, 2)
    same(one_round(executor, prepared), one_round(InThisProcess(prepared.trainer), prepared))
    assert factory.log == sorted(factory.log)


def test_a_lost_workers_chunks_are_trained_again_and_come_in_order():
    prepared = world()
    factory = ScriptedWorkers(prepared.trainer, dying=[{0}, {1}, {2}])
    executor = WorkerPool(factory, 2)
    same(one_round(executor, prepared), one_round(InThisProcess(prepared.trainer), prepared))
    assert len(factory.log) > len(set(factory.log))


def test_a_chunk_that_kills_one_worker_after_the_other_stops_the_run():
    prepared = world()
    executor = WorkerPool(ScriptedWorkers(prepared.trainer, dying=[{1}] * 9), 2)
    with pytest.raises(ChildProcessError, match="clients 1, 2 brought their worker down 3 times"):
        one_round(executor, prepared)


def test_an_abandoned_round_leaves_nothing_to_the_next():
    prepared = world()
    factory = ScriptedWorkers(prepared.trainer)
    executor = WorkerPool(factory, 2)
    chunks = list(prepared.trainer.chunks(range(len(SIZES))))
    states = ClientStates(prepared.client_template)
    rows = executor.train(1, prepared.broadcast_template, chunks, lambda c: states.fetch(c, {}))
    next(rows)
    rows.close()
    same(
        one_round(executor, prepared, 2),
        one_round(InThisProcess(prepared.trainer), prepared, 2),
    )


# --- real processes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pooled():
    prepared = world()
    with open_executor(*parts_of(prepared)) as executor:
        yield prepared, executor


def test_worker_processes_give_what_one_process_gives(pooled):
    prepared, executor = pooled
    for round_num in (1, 2):
        ours = one_round(executor, prepared, round_num)
        same(ours, one_round(InThisProcess(prepared.trainer), prepared, round_num))


def test_a_worker_killed_in_the_middle_of_a_round_is_replaced_and_nothing_is_lost(pooled):
    prepared, executor = pooled
    states = ClientStates(prepared.client_template)
    chunks = list(prepared.trainer.chunks(range(len(SIZES))))
    rows = executor.train(1, prepared.broadcast_template, chunks, lambda c: states.fetch(c, {}))
    made = [copied(next(rows))]
    os.kill(executor.executor._workers[0]._process.pid, signal.SIGKILL)
    made += [copied(trained) for trained in rows]
    same(made, one_round(InThisProcess(prepared.trainer), prepared))


def test_a_worker_killed_between_rounds_is_replaced(pooled):
    prepared, executor = pooled
    os.kill(executor.executor._workers[1]._process.pid, signal.SIGKILL)
    same(one_round(executor, prepared), one_round(InThisProcess(prepared.trainer), prepared))


def test_a_run_with_workers_ends_as_a_run_without(pooled, tmp_path, watcher):
    prepared, executor = pooled
    finals = []
    for name, given in (("two", executor), ("one", None)):
        description = describe("world", {}, prepared, "cohort")
        run_prepared(prepared, description, [watcher], given, out=tmp_path / name)
        finals.append([row["test_loss"] for row in watcher.rows[-3:]])
    assert finals[0] == pytest.approx(finals[1], rel=1e-5)


def test_an_error_in_a_clients_work_is_raised_in_this_process_with_its_traceback():
    def fall_over(*_):
        raise ZeroDivisionError("nothing to divide by")

    broken = replace(remembering(sgd(0.1)), local_step=fall_over)
    prepared = world()
    prepared = replace(prepared, trainer=replace(prepared.trainer, strategy=broken))
    with (
        open_executor(*parts_of(prepared)) as executor,
        pytest.raises(WorkerError, match=r"(?s)fall_over.*ZeroDivisionError: nothing to divide by"),
    ):
        one_round(executor, prepared)


# --- Ray -----------------------------------------------------------------------------------------


REPOSITORY = Path(__file__).parents[3]


def in_another_process(function):
    """Ray leaves sub-processes behind that a test's own process would be blamed for."""
    code = f"from tests.fedsim.training import test_executors as own; own.{function.__name__}()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def ray_rounds():
    import ray

    prepared = world()
    with open_executor(*parts_of(prepared), "ray") as executor:
        alone = one_round(InThisProcess(prepared.trainer), prepared)
        same(one_round(executor, prepared), alone)
        states = ClientStates(prepared.client_template)
        chunks = list(prepared.trainer.chunks(range(len(SIZES))))
        rows = executor.train(1, prepared.broadcast_template, chunks, lambda c: states.fetch(c, {}))
        made = [copied(next(rows))]
        ray.kill(executor.executor._workers[0]._actor)
        made += [copied(trained) for trained in rows]
        same(made, alone)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_ray_actors_give_what_one_process_gives_and_a_killed_one_is_replaced():
    in_another_process(ray_rounds)


@pytest.mark.slow
def test_every_runtime_and_every_number_of_workers_ends_a_run_alike(tmp_path):
    finals = {}
    for place in ("--workers 1", "--workers 2", "--workers 2 --runtime ray"):
        out = tmp_path / place.replace(" ", "")
        command = f"-m fedsim run digits_quickstart --rounds 3 --width 7 {place} --out {out}"
        subprocess.run([sys.executable, *command.split()], check=True, capture_output=True)
        finals[place] = json.loads((out / "summary.json").read_text())["test_loss"]
    first, *others = finals.values()
    assert others == pytest.approx([first, first], rel=1e-4)
