"""summary.json and clients.csv: how a run ended, for the run and for each client."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.core import trees
from fedsim.runs.folder import Metrics
from fedsim.runs.loop import Finished
from fedsim.server.setup import PreparedRun
from fedsim.training.evaluation import spread


def summarise(
    description: Mapping[str, Any], prepared: PreparedRun, finished: Finished
) -> dict[str, Any]:
    """The content of `summary.json`."""
    evaluated = [row for row in finished.metrics if "test_loss" in row]
    if finished.evaluation.accuracy is None:
        best, goal = min(evaluated, key=lambda row: row["test_loss"]), "test_loss"
    else:
        best, goal = max(evaluated, key=lambda row: row["test_accuracy"]), "test_accuracy"
    rejected: dict[str, int] = {}
    for row in finished.metrics:
        for client in row["rejected"]:
            rejected[client] = rejected.get(client, 0) + 1
    counts = prepared.dealt.owned.counts()
    return {
        "scenario": description["scenario"],
        "strategy": description["algorithm"]["strategy"],
        "seed": description["settings"]["seed"],
        "rounds": len(finished.metrics),
        "test_loss": finished.evaluation.loss,
        "test_accuracy": finished.evaluation.accuracy,
        "best": {goal: best[goal], "round": best["round"]},
        "personal_accuracy": {
            "of": finished.evaluation.source,
            **spread(finished.evaluation.personal),
        },
        "bytes_down": _total(finished.metrics, "bytes_down"),
        "bytes_up": _total(finished.metrics, "bytes_up"),
        "seconds": _total(finished.metrics, "seconds"),
        "model_bytes": trees.num_bytes(finished.params),
        "rejected": rejected,
        "clients": {
            "population": len(counts),
            "empty": int((counts == 0).sum()),
            "examples": [int(counts.min()), float(counts.float().median()), int(counts.max())],
        },
        "privacy": description["privacy"] | _spent(finished),
        "stopped": finished.stopped,
    }


def _spent(finished: Finished) -> dict[str, Any]:
    """What was spent, where anything is protected; epsilon None is no guarantee."""
    if finished.account is None:
        return {}
    account = finished.account
    return {
        "epsilon": account.exactly(),
        "delta": account.delta,
        "warnings": list(account.warnings()),
    }


def _total(metrics: list[Metrics], key: str) -> Any:
    total = sum(row[key] for row in metrics)
    return round(total, 3) if isinstance(total, float) else total


def write_clients(path: Path, prepared: PreparedRun, finished: Finished) -> None:
    """Write `clients.csv`: a row for each client."""
    counts = prepared.dealt.owned.counts().tolist()
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["client", "examples", "accuracy"])
        for client, (count, value) in enumerate(
            zip(counts, finished.evaluation.personal.tolist(), strict=True)
        ):
            writer.writerow([client, count, "" if value != value else f"{value:.6f}"])
