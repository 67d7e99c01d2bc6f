"""A strategy whose oracles remember something of each client from step to step and round to round.

What is remembered travels with the client's own state: it is kept, resumed and committed like it,
and never sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from fedsim.core.batch import Batch
from fedsim.core.scenario import AnyStrategy
from fedsim.core.trees import Tree


class Remembered(NamedTuple):
    """A state of the strategy, and what the oracle keeps beside it."""

    own: Any
    memory: Any


def remembering(strategy: AnyStrategy, memory: Callable[[Tree], Any]) -> AnyStrategy:
    """The client half of `strategy`, handing `memory` from each step's oracle to the next one's."""

    def client_init(params: Tree) -> Remembered:
        return Remembered(strategy.client_init(params), memory(params))

    def local_init(broadcast: Any, client: Remembered) -> Remembered:
        return Remembered(strategy.local_init(broadcast, client.own), client.memory)

    def local_step(
        local: Remembered, batch: Batch, oracle: Any, broadcast: Any, client: Remembered
    ) -> Remembered:
        oracle.memory = local.memory
        own = strategy.local_step(local.own, batch, oracle, broadcast, client.own)
        return Remembered(own, oracle.memory)

    def local_end(local: Remembered, broadcast: Any, client: Remembered) -> tuple[Tree, Remembered]:
        diff, own = strategy.local_end(local.own, broadcast, client.own)
        return diff, Remembered(own, local.memory)

    return replace(
        strategy,
        client_init=client_init,
        local_init=local_init,
        local_step=local_step,
        local_end=local_end,
    )
