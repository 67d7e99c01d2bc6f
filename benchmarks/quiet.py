"""Whether somebody else is using the machine; on two cores, that decides who looks fast.

Contenders with two processes need both cores: beside any other busy process they take as long as
with one. So how busy the machine was before each run is noted, and a run may wait for quiet.
"""

from __future__ import annotations

import time
from pathlib import Path

QUIET = 0.1  # share of the machine that others may use
_STAT = Path("/proc/stat")
_WINDOW = 0.5  # seconds


def busy() -> float | None:
    """The share of all cores in use just now; None where /proc does not say."""
    if not _STAT.exists():
        return None
    idle, total = _ticks()
    time.sleep(_WINDOW)
    idle_later, total_later = _ticks()
    return 1 - (idle_later - idle) / max(1, total_later - total)


def wait(seconds: float) -> float | None:
    """Wait for quiet, up to so long; give how busy the machine is then."""
    deadline = time.monotonic() + seconds
    while (share := busy()) is not None and share > QUIET and time.monotonic() < deadline:
        time.sleep(1)
    return share


def _ticks() -> tuple[int, int]:
    """Idle ticks (waiting for a disk included) and all ticks of all cores since the start."""
    counts = [int(part) for part in _STAT.read_text().splitlines()[0].split()[1:]]
    return counts[3] + counts[4], sum(counts[:8])
