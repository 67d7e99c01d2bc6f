"""Where a run's time goes, part by part. A second within two parts counts for the inner one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

PARTS = (
    "start",
    "sampling",
    "accounting",
    "messages",
    "data",
    "local steps",
    "aggregation",
    "evaluation",
    "storage",
    "pictures",
)
"""In the order in which a run comes to them."""


class Profile:
    """Seconds by part; two readings of a clock each, so it is always on.

    On a GPU, work that was only asked for is counted where somebody waits for it.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._clock = clock
        self._inner: list[float] = []  # of each open part, the seconds of parts within it

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens in here belongs to this part, but for other parts within it."""
        began = self._clock()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = self._clock() - began
            self.seconds[name] += took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items; the time to get each belongs to this part, what is done with it does not."""
        rest = iter(items)
        while True:
            with self.part(name):
                try:
                    item = next(rest)
                except StopIteration:
                    return
            yield item

    def split(self, name: str, other: str, share: float, seconds: float) -> None:
        """Move a share of these seconds of one part to another."""
        self.seconds[name] -= share * seconds
        self.seconds[other] += share * seconds
