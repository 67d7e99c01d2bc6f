"""Observe canaries while a round is finished; the code of the round is not aware of them.

The round is given a scenario whose aggregator adds the canary clients' updates to the clients' sum,
and whose mechanism notes what it released; canary examples are observed in the replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fedsim.canaries.clients import CanaryClients, Joined
from fedsim.canaries.examples import CanaryExamples
from fedsim.canaries.plan import Canaries, RoundObservation
from fedsim.core.sampling import Everyone
from fedsim.core.scenario import Aggregator, Mechanism, Scenario
from fedsim.core.updates import Aggregate, Noise, Released, Update, screen
from fedsim.world.population import Population


class RoundObserver:
    """Observes the canaries of one round.

    Args:
        canaries: the run's.
        scenario: the run's.
        population: as dealt, without canaries.
        strategy: the strategy's state before the round.
        mechanism: the mechanism's state before the round.
        round_num: from 1.
    """

    def __init__(
        self,
        canaries: Canaries,
        scenario: Scenario,
        population: Population,
        *,
        strategy: Any,
        mechanism: Any,
        round_num: int,
    ) -> None:
        self._canaries, self._plain, self._population = canaries, scenario, population
        self._strategy, self._mechanism, self._round_num = strategy, mechanism, round_num
        self._seen = torch.full((len(canaries.included),), torch.nan)
        self._joined: Joined | None = None
        self._released: tuple[Aggregate, Released] | None = None

    @property
    def scenario(self) -> Scenario:
        """The scenario to finish the round with."""
        if not isinstance(self._canaries, CanaryClients):
            return self._plain
        return replace(
            self._plain,
            aggregator=self._joined_by(self._canaries, self._plain.aggregator),
            mechanism=self._noted(self._plain.mechanism),
        )

    def observe_updates(self, clients: Sequence[int], update: Update) -> None:
        """Observe canary examples in the updates of these clients."""
        if not isinstance(self._canaries, CanaryExamples):
            return
        update, kept, _ = screen(update, list(clients))
        if not kept:
            return
        task, params = self._plain.task, self._plain.strategy.params(self._strategy)
        new = self._canaries.seen(task, self._population, params, kept, update.diff)
        self._seen = torch.where(new.isnan(), self._seen, new)

    def observation(self) -> RoundObservation | None:
        """The observations of the round; None where no canary client could join it."""
        if isinstance(self._canaries, CanaryExamples):
            asked = (~self._seen.isnan()).nonzero().flatten().tolist()
            return RoundObservation(asked, self._seen)
        if self._joined is None:
            return None
        asked = self._joined.asked.tolist()
        seen = self._canaries.seen(self._joined, self._released)
        if self._joined.honest is None:  # each is observed in its own update
            return RoundObservation(asked, seen)
        return RoundObservation(asked, seen, self._canaries.overlaps(self._joined))

    def _joined_by(self, canaries: CanaryClients, rule: Aggregator[Any]) -> Aggregator[Any]:
        """The aggregator, with the canaries that the round asks in the clients' sum.

        Where each update is released by itself, canaries are observed in theirs, and in no sum.
        """
        alone = self._plain.mechanism.releases_each_update

        def finish(total: Any, everyone: Everyone) -> Aggregate | str | None:
            honest = None if alone else rule.finish(total, everyone)
            self._joined = canaries.join(
                self._plain,
                self._mechanism,
                self._round_num,
                honest if isinstance(honest, Aggregate) else None,
            )
            return rule.finish(total if alone else rule.add(total, self._joined.bounded), everyone)

        return replace(rule, finish=finish)

    def _noted(self, mechanism: Mechanism[Any]) -> Mechanism[Any]:
        """The mechanism, whose release is noted."""

        def release(state: Any, aggregate: Aggregate, noise: Noise) -> tuple[Released, Any]:
            released, state = mechanism.release(state, aggregate, noise)
            self._released = aggregate, released
            return released, state

        return replace(mechanism, release=release)
