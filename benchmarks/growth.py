"""How the cohort runtime scales: time per client and memory over population and cohort.

    python -m benchmarks.growth [--repeats 3] [--out FILE.json] [--plot FILE.png]

The small CNN of the engine benchmark, 60 examples a client, one worker of one thread. All clients
draw from one small pool of examples, so that memory is the engine's and not the data's. Each size
runs in a process of its own, sizes take turns within a repeat, and costs are compared within one.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.contenders.ours import rounds_of
from benchmarks.workloads import WORKLOADS, experiment_of
from fedsim.server.setup import PreparedRun
from fedsim.training.autotune import choose
from fedsim.world.population import Ownership

COHORTS = {100: 10, 1_000: 100, 10_000: 1_000}  # population -> cohort
_EXAMPLES = 60  # of each client
_POOL = 1_000  # examples in all
_TRAINED = 1_000  # clients timed in each process, whatever the cohort
_MIB_IN_RU_MAXRSS = 1 << 20 if sys.platform == "darwin" else 1 << 10


def main() -> None:
    """Measure every size, print a table, and write what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--one", type=int, metavar="POPULATION", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(_one(given.one)))
        return
    runs: dict[int, list[dict[str, float]]] = {population: [] for population in COHORTS}
    for repeat in range(given.repeats):
        for population in COHORTS if repeat % 2 == 0 else reversed(COHORTS):
            command = [sys.executable, "-m", "benchmarks.growth", "--one", str(population)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs[population].append(json.loads(done.stdout.splitlines()[-1]))
    sizes = _summary(runs)
    print(_table(sizes, given.repeats))
    if given.out:
        given.out.write_text(json.dumps({"repeats": given.repeats, "sizes": sizes}) + "\n")
    if given.plot:
        _plot(sizes, given.plot)


def _one(population: int) -> dict[str, float]:
    """One size in this process: seconds a trained client, peak memory before and after training."""
    torch.set_num_threads(1)
    cohort = COHORTS[population]
    with rounds_of(_experiment(population, cohort)) as one:
        opened = _peak_mib()
        one(1)
        began = time.perf_counter()
        count = _TRAINED // cohort
        for round_num in range(2, 2 + count):
            one(round_num)
        seconds = (time.perf_counter() - began) / (count * cohort)
    return {"seconds_per_client": seconds, "opened_mib": opened, "peak_mib": _peak_mib()}


def _experiment(population: int, cohort: int) -> PreparedRun:
    """The small CNN over a pool of examples that clients share.

    A split gives every example to one client at most, so who owns what is replaced afterwards:
    client i owns the pool's examples from 60 i on, and over again from its beginning.
    """
    pool = replace(WORKLOADS["W3"], population=1, cohort=1, examples=_POOL)
    prepared = experiment_of(pool, workers=1, width=1)
    owned = Ownership(
        rows=torch.arange(population * _EXAMPLES) % _POOL,
        starts=torch.arange(population + 1) * _EXAMPLES,
    )
    shared = replace(prepared.dealt, owned=owned)
    trainer = replace(prepared.trainer, population=shared)
    layout = choose(
        trainer,
        broadcast=prepared.broadcast_template,
        client=prepared.client_template,
        params=prepared.initial_params,
        cohort=cohort,
        rounds=1,
        width=None,
        workers=1,
    )
    return replace(
        prepared,
        scenario=replace(prepared.scenario, population=population, cohort=cohort),
        population=shared,
        trainer=replace(trainer, width=layout.width),
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB_IN_RU_MAXRSS


def _summary(runs: dict[int, list[dict[str, float]]]) -> list[dict[str, object]]:
    """Each size's medians, and its cost relative to the smallest size's within a repeat."""
    smallest = runs[min(COHORTS)]
    sizes: list[dict[str, object]] = []
    for population, own in runs.items():
        costs = [run["seconds_per_client"] for run in own]
        relative = [
            cost / base["seconds_per_client"] for cost, base in zip(costs, smallest, strict=True)
        ]
        sizes.append(
            {
                "population": population,
                "cohort": COHORTS[population],
                "ms_per_client": 1e3 * statistics.median(costs),
                "relative": statistics.median(relative),
                "relative_runs": relative,
                "opened_mib": statistics.median(run["opened_mib"] for run in own),
                "peak_mib": statistics.median(run["peak_mib"] for run in own),
                "runs": own,
            }
        )
    return sizes


def _table(sizes: list[dict[str, object]], repeats: int) -> str:
    lines = [
        f"LeNet-like CNN, {_EXAMPLES} examples a client, batch {WORKLOADS['W3'].batch}, one worker;"
        f" medians of {repeats} interleaved repeats\n",
        f"{'population':>10}{'cohort':>8}{'ms/client':>11}{'relative':>10}{'opened MiB':>12}"
        f"{'peak MiB':>10}",
    ]
    lines += [
        f"{size['population']:>10,}{size['cohort']:>8,}{size['ms_per_client']:>11.2f}"
        f"{size['relative']:>10.2f}{size['opened_mib']:>12.0f}{size['peak_mib']:>10.0f}"
        for size in sizes
    ]
    return "\n".join(lines)


def _plot(sizes: list[dict[str, object]], path: Path) -> None:
    """Two panels over the cohort: cost of a client relative to the smallest size, and memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cohorts = [size["cohort"] for size in sizes]
    with pyplot.rc_context({"font.size": 12, "axes.grid": True, "grid.alpha": 0.3}):
        figure, (cost, memory) = pyplot.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
        for size in sizes:
            spread = size["relative_runs"]
            cost.plot([size["cohort"]] * len(spread), spread, "o", color="0.65", markersize=5)
        cost.plot(cohorts, [size["relative"] for size in sizes], "o-", label="median of repeats")
        cost.set_ylabel("seconds a trained client,\nrelative to the smallest cohort")
        cost.set_ylim(0, max(1.5, 1.1 * max(max(size["relative_runs"]) for size in sizes)))
        cost.legend(loc="lower left")
        memory.plot(cohorts, [size["peak_mib"] for size in sizes], "o-", label="peak")
        memory.plot(
            cohorts,
            [size["opened_mib"] for size in sizes],
            "s--",
            color="0.5",
            label="before the first round",
        )
        memory.set_ylabel("resident memory of the process (MiB)")
        memory.set_ylim(0, 1.3 * max(size["peak_mib"] for size in sizes))
        memory.legend(loc="lower left")
        labels = [f"{size['cohort']:,}\nof {size['population']:,}" for size in sizes]
        for panel in (cost, memory):
            panel.set_xscale("log")
            panel.set_xticks(cohorts, labels)
            panel.minorticks_off()
            panel.set_xlabel("clients in a round, of the population")
        figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
