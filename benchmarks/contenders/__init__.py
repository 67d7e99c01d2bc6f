"""The implementations that are compared. Each runs in its own processes and is imported lazily."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from benchmarks.workloads import WORKLOADS, Workload
from fedsim.core.trees import Tree

Round = Callable[[int], Tree]
"""Trains the round of that number and returns the parameters after it."""


class Measured(NamedTuple):
    """Seconds of each timed round, and the parameters after the last one."""

    seconds: list[float]
    params: Tree


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A way to run a workload.

    module, options: `benchmarks.contenders.<module>.measure(workload, **options)` measures it.
    processes: how many of one thread train; ratios to ours are to ours with as many.
    needs, install: a module that may be absent, and how it is had.
    only: which workloads it can run.
    """

    name: str
    module: str
    options: dict[str, object]
    processes: int
    only: tuple[str, ...]
    needs: str = "torch"
    install: str = ""

    @property
    def installed(self) -> bool:
        """Whether the module that it needs can be imported."""
        return find_spec(self.needs) is not None

    def measure(self, workload: Workload) -> Measured:
        """Run all rounds of a workload in this process and its children."""
        run: Callable[..., Measured] = import_module(f"{__name__}.{self.module}").measure
        return run(workload, **self.options)


def timed(one: Round, workload: Workload) -> Measured:
    """Time rounds one by one; the first is a warm-up and not counted."""
    params = one(1)
    seconds = []
    for round_num in range(2, workload.last_round + 1):
        began = time.perf_counter()
        params = one(round_num)
        seconds.append(time.perf_counter() - began)
    return Measured(seconds, params)


_PLAIN = tuple(name for name, workload in WORKLOADS.items() if not workload.private)
_PRIVATE = tuple(name for name, workload in WORKLOADS.items() if workload.private)
_PFL = (
    "--no-deps pfl==0.6.0 dp-accounting==0.5.1 prv-accountant==0.2.0 'absl-py<2' 'dm-tree~=0.1.8'"
)
_floor = partial(Contender, module="plain", only=_PLAIN)
_ours = partial(Contender, module="ours", only=tuple(WORKLOADS))
_flower = partial(
    Contender, module="flower", only=_PLAIN, needs="ray", install="'flwr[simulation]==1.41.0'"
)
_pfl = partial(Contender, module="apple", only=_PLAIN, needs="pfl", install=_PFL)
_opacus = partial(
    Contender, module="private", only=_PRIVATE, needs="opacus", install="opacus==1.6.0"
)

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        _floor(name="floor-1", options={"workers": 1}, processes=1),
        _floor(name="floor-2", options={"workers": 2}, processes=2),
        _opacus(name="opacus-hooks-1", options={"ghost": False, "workers": 1}, processes=1),
        _opacus(name="opacus-hooks-2", options={"ghost": False, "workers": 2}, processes=2),
        _opacus(name="opacus-ghost-1", options={"ghost": True, "workers": 1}, processes=1),
        _opacus(name="opacus-ghost-2", options={"ghost": True, "workers": 2}, processes=2),
        _ours(name="ours-1", options={"workers": 1}, processes=1),
        _ours(name="ours-2", options={"workers": 2}, processes=2),
        _pfl(name="pfl-1", options={"workers": 1}, processes=1),
        _pfl(name="pfl-2", options={"workers": 2}, processes=2),
        _flower(name="flower", options={}, processes=2),
    )
}
