"""Looking for canaries while a round is finished. Without canaries there is nothing to do."""

from __future__ import annotations

from typing import Any

import torch

from fedsim.canaries.clients import CanaryClients, Joined
from fedsim.canaries.examples import CanaryExamples
from fedsim.canaries.plan import Sighting
from fedsim.core.sampling import Everyone
from fedsim.core.updates import Aggregate, Released, Update
from fedsim.server.setup import PreparedRun


class Lookout:
    """One round's. The server calls these in this order, the first as often as updates come.

    Args:
        prepared: what is run.
        server: the strategy's state before the round.
        mechanism: the mechanism's.
        round_num: from 1.
    """

    def __init__(self, prepared: PreparedRun, server: Any, mechanism: Any, round_num: int) -> None:
        self._prepared, self._server = prepared, server
        self._mechanism, self._round_num = mechanism, round_num
        canaries = prepared.canaries
        self._clients = canaries if isinstance(canaries, CanaryClients) else None
        self._examples = canaries if isinstance(canaries, CanaryExamples) else None
        self._seen = torch.full((0 if canaries is None else len(canaries.included),), torch.nan)
        self._joined: Joined | None = None
        self._public: tuple[Aggregate, Released] | None = None

    def at_updates(self, clients: list[int], update: Update) -> None:
        """Updates as they came, of these clients: examples are seen in them."""
        if self._examples is None:
            return
        scenario, people = self._prepared.scenario, self._prepared.dealt
        params = scenario.strategy.params(self._server)
        new = self._examples.seen(scenario.task, people, params, clients, update.diff)
        self._seen = torch.where(new.isnan(), self._seen, new)

    def joined(self, total: Any, everyone: Everyone) -> Any:
        """The aggregator's state once all clients are in it, and then the canaries among them.

        Where everybody sees each update by itself, canaries are seen in theirs, and in no sum.
        """
        if self._clients is None:
            return total
        scenario = self._prepared.scenario
        alone = scenario.mechanism.relation == "replace"
        honest = None if alone else scenario.aggregator.finish(total, everyone)
        self._joined = self._clients.join(
            scenario,
            self._mechanism,
            self._round_num,
            honest if isinstance(honest, Aggregate) else None,
        )
        return total if alone else scenario.aggregator.add(total, self._joined.bounded)

    def at_release(self, aggregate: Aggregate, released: Released) -> None:
        """What was combined, and what was made public of it."""
        self._public = aggregate, released

    def sighting(self) -> Sighting | None:
        """What was seen in the round; None without canaries."""
        if self._examples is not None:
            asked = (~self._seen.isnan()).nonzero().flatten().tolist()
            return Sighting(asked, self._seen)
        if self._clients is None or self._joined is None:
            return None
        asked, seen = self._joined.asked.tolist(), self._clients.seen(self._joined, self._public)
        if self._joined.honest is None:  # each is seen in its own update
            return Sighting(asked, seen)
        return Sighting(asked, seen, self._clients.overlaps(self._joined))
