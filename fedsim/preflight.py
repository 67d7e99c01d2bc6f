"""What a run would be and cost, before it is run."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

from fedsim import trees
from fedsim.evaluation import evaluate
from fedsim.experiment import Experiment
from fedsim.states import ClientStates


def forecast(experiment: Experiment) -> dict[str, Any]:
    """Sizes, traffic, memory and time of a run, from its data and from timing one chunk.

    The chunk's result is thrown away. Expected values are over which clients are chosen.
    """
    scenario, trainer = experiment.scenario, experiment.trainer
    counts = experiment.population.owned.counts().tolist()
    steps = [scenario.plan.num_steps(count) for count in counts]
    busy_share = sum(count > 0 for count in counts) / len(counts)
    down = trees.num_bytes(experiment.broadcast_template)
    up = trees.num_bytes(experiment.diff_template)
    trips = scenario.cohort * scenario.rounds
    evaluations = -(-scenario.rounds // scenario.evaluate_every)
    step_seconds = _step_seconds(experiment)
    evaluation_seconds = _evaluation_seconds(experiment)
    model = trees.num_bytes(experiment.initial_params)
    return {
        "population": scenario.population,
        "cohort": scenario.cohort,
        "rounds": scenario.rounds,
        "sampling": scenario.selection.sampling,
        "sampling_prob": scenario.cohort / scenario.population,
        "examples_of_a_client": [min(counts), max(counts)],
        "empty_clients": sum(count == 0 for count in counts),
        "steps_of_a_client": {"mean": sum(steps) / len(steps), "max": max(steps)},
        "task": scenario.task.name,
        "parameters": sum(t.numel() for t in experiment.initial_params.values()),
        "strategy": scenario.strategy.name,
        "plan": scenario.plan.name,
        "width": trainer.width,
        "bytes_down": down * trips,
        "bytes_up": round(up * trips * busy_share),
        # What is in memory by now (data, libraries, one timed chunk) is most of what a run takes;
        # the server's state and the running sum come on top.
        "memory_bytes": _peak_memory() + 4 * model,
        "seconds": sum(steps) / len(steps) * trips * step_seconds
        + evaluations * evaluation_seconds,
        "epsilon": None,
        "statement": scenario.mechanism.statement,
    }


def _step_seconds(experiment: Experiment) -> float:
    """Seconds of one local step of one client, within a chunk of the usual width."""
    trainer, scenario = experiment.trainer, experiment.scenario
    everyone = range(min(scenario.population, 4 * scenario.cohort))
    chunk = next(trainer.chunks(everyone), None)
    if chunk is None:
        return 0.0
    states = ClientStates(experiment.client_template).fetch(chunk, {})
    counts = experiment.population.owned.counts()
    steps = sum(scenario.plan.num_steps(int(counts[client])) for client in chunk)
    trainer.train(1, experiment.broadcast_template, chunk, states)  # warm up
    began = time.perf_counter()
    trainer.train(1, experiment.broadcast_template, chunk, states)
    return (time.perf_counter() - began) / steps


def _evaluation_seconds(experiment: Experiment) -> float:
    began = time.perf_counter()
    evaluate(experiment.scenario.task, experiment.initial_params, experiment.population)
    return time.perf_counter() - began


def _peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
