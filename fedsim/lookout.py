"""Looking for canaries while a round is finished. Without canaries there is nothing to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from fedsim.canaries import Sighting
from fedsim.canary_clients import CanaryClients, Joined
from fedsim.canary_examples import CanaryExamples
from fedsim.experiment import Experiment
from fedsim.mechanism import Aggregate, Released
from fedsim.types import Everyone, Tree, Update


class Lookout(ABC):
    """One round's. The server calls these in this order, the first as often as updates come."""

    @abstractmethod
    def at_updates(self, clients: list[int], update: Update) -> None:
        """Updates as they came, of these clients."""

    @abstractmethod
    def joined(self, total: Any, everyone: Everyone) -> Any:
        """The aggregator's state once all clients are in it, and then the canaries too."""

    @abstractmethod
    def at_release(self, aggregate: Aggregate, released: Released) -> None:
        """What was combined, and what was made public of it."""

    @abstractmethod
    def sighting(self) -> Sighting | None:
        """What was seen in the round."""


class _Nobody(Lookout):
    def at_updates(self, clients: list[int], update: Update) -> None:
        pass

    def joined(self, total: Any, everyone: Everyone) -> Any:
        return total

    def at_release(self, aggregate: Aggregate, released: Released) -> None:
        pass

    def sighting(self) -> None:
        return None


class _OnClients(Lookout):
    def __init__(
        self, canaries: CanaryClients, experiment: Experiment, state: Any, round_num: int
    ) -> None:
        self._canaries, self._scenario = canaries, experiment.scenario
        self._state, self._round_num = state, round_num
        self._joined: Joined | None = None
        self._public: tuple[Aggregate, Released] | None = None

    def at_updates(self, clients: list[int], update: Update) -> None:
        pass

    def joined(self, total: Any, everyone: Everyone) -> Any:
        aggregator, honest = self._scenario.aggregator, None
        if self._scenario.mechanism.relation != "replace":  # there, all see each update by itself
            honest = aggregator.finish(total, everyone)
        self._joined = self._canaries.join(
            self._scenario, self._state, self._round_num,
            honest if isinstance(honest, Aggregate) else None,
        )  # fmt: skip
        return aggregator.add(total, self._joined.bounded)

    def at_release(self, aggregate: Aggregate, released: Released) -> None:
        self._public = aggregate, released

    def sighting(self) -> Sighting | None:
        if self._joined is None:
            return None
        asked, seen = self._joined.asked.tolist(), self._canaries.seen(self._joined, self._public)
        if self._joined.honest is None:  # each is seen in its own update
            return Sighting(asked, seen)
        return Sighting(asked, seen, self._canaries.overlaps(self._joined))


class _OnExamples(Lookout):
    def __init__(self, canaries: CanaryExamples, experiment: Experiment, params: Tree) -> None:
        self._canaries, self._params = canaries, params
        self._task, self._people = experiment.scenario.task, experiment.population
        self._seen = torch.full((len(canaries.included),), torch.nan)

    def at_updates(self, clients: list[int], update: Update) -> None:
        new = self._canaries.seen(self._task, self._people, self._params, clients, update.diff)
        self._seen = torch.where(new.isnan(), self._seen, new)

    def joined(self, total: Any, everyone: Everyone) -> Any:
        return total

    def at_release(self, aggregate: Aggregate, released: Released) -> None:
        pass

    def sighting(self) -> Sighting:
        asked = (~self._seen.isnan()).nonzero().flatten().tolist()
        return Sighting(asked, self._seen)


def lookout(experiment: Experiment, server: Any, mechanism: Any, round_num: int) -> Lookout:
    """Whoever looks for a run's canaries in a round. server, mechanism: states before it."""
    canaries = experiment.canaries
    if isinstance(canaries, CanaryClients):
        return _OnClients(canaries, experiment, mechanism, round_num)
    if isinstance(canaries, CanaryExamples):
        params = experiment.scenario.strategy.params(server)
        return _OnExamples(canaries, experiment, params)
    return _Nobody()
