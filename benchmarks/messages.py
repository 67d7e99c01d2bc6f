"""The cost of a Flower Message round trip on the in-process Grid: a round of empty clients.

python -m benchmarks.messages
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import torch

from benchmarks.contenders.ours import rounds_of
from benchmarks.workloads import WORKLOADS, experiment_of
from fedsim.world.population import Ownership

_COHORT = 1000
_REPEATS = 20


def microseconds(registered: int) -> float:
    """The median cost of a client without examples, for a number of registered clients."""
    workload = replace(WORKLOADS["W2"], population=1, cohort=1)
    prepared = experiment_of(workload, workers=1, width=1)
    no_examples = Ownership(torch.zeros(0, dtype=torch.int64), torch.zeros(registered + 1).long())
    empty = replace(prepared.dealt, owned=no_examples)
    prepared = replace(
        prepared,
        scenario=replace(prepared.scenario, population=registered, cohort=_COHORT),
        population=empty,
        trainer=replace(prepared.trainer, population=empty),
    )
    seconds = []
    with rounds_of(prepared) as one:
        for round_num in range(1, _REPEATS + 2):
            began = time.perf_counter()
            one(round_num)
            seconds.append(time.perf_counter() - began)
    return 1e6 * statistics.median(seconds[1:]) / _COHORT


def main() -> None:
    """Print the cost at two sizes of the population."""
    torch.set_num_threads(1)
    print("microseconds a client, a round of 1,000 clients without examples")
    for registered in (1_000, 10_000):
        print(f"{registered:>8,} registered {microseconds(registered):8.1f}")


if __name__ == "__main__":
    main()
