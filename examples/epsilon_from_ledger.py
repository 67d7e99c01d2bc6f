"""Epsilon from a run's ledger.jsonl, without a line of this project's code.

Lesson    a ledger says all that an accountant needs; its reader need not trust our code
Usage     python examples/epsilon_from_ledger.py RUN_DIR...
Runtime   seconds
Expected  what summary.json says, to a thousandth
Status    Gaussian noise on Poisson, shuffled, ordered or cyclic samples; refuses anything else
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import dp_accounting as dp

FIELDS = {"kind", "sampling_prob", "overflow", "passes", "batches"}  # of a sampler


def epsilon_of(ledger: Path, delta: float) -> float:
    """The epsilon of the client that has spent most, at a delta."""
    histories: defaultdict[int | str, Counter[dp.DpEvent]] = defaultdict(Counter)
    for entry in map(json.loads, ledger.read_text().splitlines()):
        sampler = entry["sampler"]
        known = sampler["kind"] in ("poisson", "shuffled", "ordered", "cyclic")
        if entry["mechanism"] != "gaussian" or not known or sampler.keys() - FIELDS:
            raise SystemExit(f"{ledger}: round {entry['round']} is nothing that is done here.")
        # Several questions of one sample are one release with less noise.
        event = dp.GaussianDpEvent(entry["noise_multiplier"] / entry["calls"] ** 0.5)
        if sampler["kind"] == "poisson":
            event = dp.PoissonSampledDpEvent(sampler["sampling_prob"], event)
        for client in entry["clients"] or ["all clients"]:
            histories[client][event] += sampler.get("passes", entry["steps"])
    spent = [0.0]
    for history in {frozenset(events.items()) for events in histories.values()}:
        accountant = dp.pld.PLDAccountant()
        for event, times in history:
            accountant.compose(event, times)
        spent.append(accountant.get_epsilon(delta))
    return max(spent)


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        claimed = json.loads((folder / "summary.json").read_text())["privacy"]
        found = epsilon_of(folder / "ledger.jsonl", claimed["delta"])
        print(f"{folder}: {found:.6g} by dp-accounting alone, {claimed['epsilon']:.6g} claimed")
