"""The time a run spends in each part. Time within nested parts counts for the inner one."""

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
"""In the order in which a run reaches them."""


class Profile:
    """Seconds by part; it costs two readings of a clock for each part, so it is always on.

    On a GPU, asynchronous work is counted in the part that waits for it.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._clock = clock
        self._inner: list[float] = []  # seconds of nested parts, for each open part

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of a `with` block for this part, less the parts nested in it."""
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
        """The items; the time to produce each counts for this part, the time to use it does not."""
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
