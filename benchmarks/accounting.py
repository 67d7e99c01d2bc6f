"""How long questions to the accountant take: an epsilon each round, and extreme events.

    python -m benchmarks.accounting [--repeats 20] [--out FILE.json]

The count grows by one step from question to question, as in a run that is asked for its epsilon
after every round: nothing but the composition is new. Each extreme event is asked once, with an
empty cache, by every function that gives an epsilon. `privacy.accounting.pld` says what costs time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from privacy.accounting import FixedSize, PoissonGaussian, account, epsilon, pld, rdp_epsilon
from privacy.accounting.events import Event, PoissonReplace

_DELTA = 1e-5
_EXTREME: dict[str, Event] = {
    "losses too large for a grid": PoissonGaussian(
        sampling_prob=0.01, noise_multiplier=0.05, count=1000
    ),
    "1e15 steps": PoissonGaussian(sampling_prob=0.01, noise_multiplier=1.0, count=10**15),
    "sampling probability 1e-12": PoissonGaussian(
        sampling_prob=1e-12, noise_multiplier=1.0, count=10
    ),
    "fixed size, little noise": FixedSize(
        population=10**6, cohort=1, noise_multiplier=1e-3, count=10
    ),
    "replaced, little noise": PoissonReplace(sampling_prob=0.5, noise_multiplier=0.1, count=10),
}


def main() -> None:
    """Measure, print a table, and write what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    given = parser.parse_args()
    seconds = measure_growing_count(given.repeats)
    for name, event in _EXTREME.items():
        seconds[name] = measure_all_questions(event)
    for name, took in seconds.items():
        print(f"{name:30} {took * 1e3:10.1f} ms")
    if given.out:
        given.out.write_text(json.dumps({"repeats": given.repeats, "seconds": seconds}) + "\n")


def measure_growing_count(repeats: int) -> dict[str, float]:
    """Seconds of the first question, and the median of those that follow."""
    events: list[Event] = [PoissonGaussian(sampling_prob=0.01, noise_multiplier=1.0, count=100)]
    first = _time(lambda: epsilon(events, _DELTA))
    later = []
    for _ in range(repeats):
        events.append(PoissonGaussian(sampling_prob=0.01, noise_multiplier=1.0, count=1))
        later.append(_time(lambda: epsilon(events, _DELTA)))
    return {"first question": first, "one more step (median)": statistics.median(later)}


def measure_all_questions(event: Event) -> float:
    """Seconds to ask every function for the epsilon of one event."""
    for cache in (pld.composed, pld._one):
        cache.cache_clear()
    asks = (epsilon, rdp_epsilon, account)
    return sum(_time(lambda ask=ask: ask([event], _DELTA)) for ask in asks)


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
