"""The cohort runtime beside plain PyTorch, Flower's engine, Apple's pfl, and Opacus.

    python -m benchmarks.engine [--workloads W1 W3] [--contenders ours-1 pfl-1] [--repeats 3]
                                [--wait SECONDS] [--out FILE.json]

Every contender runs in processes of its own, one thread each. They take turns within each repeat;
see `benchmarks.report` for what is made of the seconds. One that is not installed gets a row that
says how to install it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks import machine_load
from benchmarks.contenders import CONTENDERS
from benchmarks.report import SAME, Row, table
from benchmarks.workloads import WORKLOADS, Workload, fingerprint, open_world

_PACKAGES = ("torch", "numpy", "flwr", "ray", "pfl", "opacus")
_LIMIT = 900  # seconds one contender may take for one workload


def main() -> None:
    """Measure what the command line asks for; exit 1 if a contender failed."""
    given = _arguments()
    if given.one:
        _one(*given.one)
        return
    print(
        f"Seconds a round: the median of {given.repeats} interleaved repeats, one thread a process;"
        f"\nratios are medians of ratios within a repeat ('/ ours': to ours with as many processes)"
        f"\nsame work: parameters moved as far and to the same loss as the floor's, to {SAME:g}."
    )
    results, failed = [], False
    for name in given.workloads:
        rows = _measure(WORKLOADS[name], given.contenders, given.repeats, given.wait)
        text, record = table(WORKLOADS[name], rows)
        print(text, flush=True)
        results.append(record)
        failed |= any(row.failed for row in rows)
    if given.out:
        text = json.dumps({"machine": _machine(), "repeats": given.repeats, "results": results})
        given.out.write_text(text + "\n")
    sys.exit(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--wait",
        type=float,
        default=0,
        metavar="SECONDS",
        help="seconds to wait for an idle machine before each run",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--one", nargs=2, metavar=("WORKLOAD", "CONTENDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _one(workload_name: str, contender_name: str) -> None:
    """Measure one contender in this process; the last line printed is the result."""
    torch.set_num_threads(1)
    workload = WORKLOADS[workload_name]
    measured = CONTENDERS[contender_name].measure(workload)
    judged = {} if workload.random else fingerprint(open_world(workload), measured.params)
    print("\n" + json.dumps({"seconds": measured.seconds} | judged), flush=True)


def _measure(workload: Workload, names: list[str], repeats: int, patience: float) -> list[Row]:
    """Run the contenders of a workload in turn, the other way round in every other repeat."""
    chosen = (CONTENDERS[name] for name in names)
    rows = [Row(contender=one) for one in chosen if workload.name in one.only]
    for row in rows:
        if not row.contender.installed:
            row.note = f"not installed (pip install {row.contender.install})"
    for repeat in range(repeats):
        for row in rows if repeat % 2 == 0 else reversed(rows):
            if not row.note:
                load = machine_load.wait_until_idle(patience)
                _run(workload, row, load)
    return rows


def _run(workload: Workload, row: Row, load: float | None) -> None:
    """Run one contender in its own process, and record its result. load: before the start."""
    command = [sys.executable, "-m", "benchmarks.engine", "--one", workload.name]
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*command, row.contender.name],
            capture_output=True,
            text=True,
            env=os.environ | one_thread,
            timeout=_LIMIT,
        )
    except subprocess.TimeoutExpired:
        row.note, row.failed = f"FAILED: took more than {_LIMIT} s", True
        return
    said = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode == 0:
        row.runs.append(json.loads(done.stdout.strip().splitlines()[-1]) | {"busy": load})
    else:
        row.note, row.failed = f"FAILED: {said}", True


def _machine() -> dict[str, object]:
    """What the numbers were measured with."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


if __name__ == "__main__":
    main()
