"""The load of the machine, which distorts benchmarks on two cores.

Contenders with two processes need both cores: beside any other busy process they take as long as
with one. So the load before each run is recorded, and a run may wait until the machine is idle.
"""

from __future__ import annotations

import time
from pathlib import Path

IDLE = 0.1  # the machine counts as idle up to this load
_STAT = Path("/proc/stat")
_WINDOW = 0.5  # seconds


def measure_load() -> float | None:
    """The share of all cores in use now; None where /proc/stat is missing."""
    if not _STAT.exists():
        return None
    idle, total = _ticks()
    time.sleep(_WINDOW)
    idle_later, total_later = _ticks()
    return 1 - (idle_later - idle) / max(1, total_later - total)


def wait_until_idle(seconds: float) -> float | None:
    """Wait until the machine is idle, at most `seconds`; return its load then."""
    deadline = time.monotonic() + seconds
    while (load := measure_load()) is not None and load > IDLE and time.monotonic() < deadline:
        time.sleep(1)
    return load


def _ticks() -> tuple[int, int]:
    """Idle ticks (waiting for a disk included) and all ticks of all cores since the start."""
    counts = [int(part) for part in _STAT.read_text().splitlines()[0].split()[1:]]
    return counts[3] + counts[4], sum(counts[:8])
