"""The privacy account of a ledger: epsilon of all its entries, client by client.

Examples of different clients are different examples: what their clients do composes in parallel,
and the worst client's sum is what the run has spent. The account sees entries alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from fedsim.core.ledger import Entry
from privacy.accounting.composition import Report, account, epsilon
from privacy.accounting.events import Event
from privacy.accounting.other_accountants import beside
from privacy.accounting.releases import Release, Times, described_release

ALL_CLIENTS = -1  # the client of an entry that names none
Life = tuple[tuple[Release, Times], ...]
"""All that a client took part in."""


@dataclass(frozen=True)
class LedgerAccount:
    """An account of a ledger at one delta.

    release_of: what an entry released; its mechanism's file knows. By default only entries that
        describe their release are understood.
    uses: release -> client -> how often it took part.
    rounds: the last round charged.

    Guarantees:
        It depends on the entries alone, not on their order among clients.
        What has no guarantee gives no number.
    """

    delta: float
    release_of: Callable[[Entry], Release] = field(default=described_release, compare=False)
    uses: Mapping[Release, Mapping[int, Times]] = field(default_factory=dict)
    rounds: int = 0

    def charge(self, entries: Iterable[Entry]) -> LedgerAccount:
        """The account with these entries on top.

        Raises:
            PrivacyError: a client takes part more often than its mechanism is made for.
        """
        uses, rounds = dict(self.uses), self.rounds
        for entry in entries:
            release = self.release_of(entry)
            times, before = release.times(entry), dict(uses.get(release, {}))
            alike = int(entry.sampler.get("group", ALL_CLIENTS))  # groups have their own turns
            for client in entry.clients or (alike,):
                before[client] = release.added(before.get(client, ()), times)
            uses[release] = before
            rounds = max(rounds, entry.round)
        return replace(self, uses=uses, rounds=rounds)

    def report(self) -> Report:
        """Of the client that has spent most."""
        reports = [account(events, self.delta) for events in self.histories()]
        if not reports:
            return account([], self.delta)
        return max(reports, key=lambda r: math.inf if r.epsilon is None else r.epsilon)

    def epsilon(self) -> float | None:
        """What all that was charged comes to, at most half a percent too high; None: no guarantee.

        Fast enough for every round.
        """
        found = [epsilon(events, self.delta) for events in self.histories()]
        if any(one is None for one in found):
            return None
        return max((one for one in found if one is not None), default=0.0)

    def exactly(self) -> float | None:
        """The same by the finest accountant there is, which takes its time."""
        return self.report().epsilon

    def beside(self) -> dict[str, float | None]:
        """Epsilon by other accountants of the client that has spent most; for comparison alone."""
        events = self.worst()
        return beside(events, self.delta) if events else {}

    def worst(self) -> list[Event]:
        """The events of the client that has spent most."""
        found = [(epsilon(events, self.delta), events) for events in self.histories()]
        if not found:
            return []
        return max(found, key=lambda one: math.inf if one[0] is None else one[0])[1]

    def warnings(self) -> list[str]:
        """Why a plan may be neither private nor useful, each said once."""
        found = {release.warning() for release in self.uses}
        return sorted(words for words in found if words is not None)

    def histories(self) -> list[list[Event]]:
        """The events of each client, those of clients that did the same only once."""
        shared = {
            release: by[ALL_CLIENTS] for release, by in self.uses.items() if ALL_CLIENTS in by
        }
        clients = {client for by in self.uses.values() for client in by} - {ALL_CLIENTS}
        lives = {
            tuple((release, by[client]) for release, by in self.uses.items() if client in by)
            for client in clients
        } or {()}
        return [
            [release.event(times, self.rounds) for release, times in (*shared.items(), *life)]
            for life in sorted(_without_shorter(lives), key=_key)
        ]


def _key(life: Life) -> list[tuple[object, Times]]:
    return [(release.key(), times) for release, times in life]


def _without_shorter(lives: set[Life]) -> set[Life]:
    """Of lives that differ only in how often one thing was done, the longest."""
    longest: dict[Release, Life] = {}
    rest: set[Life] = set()
    for life in lives:
        if len(life) != 1 or not life[0][0].more_is_worse:
            rest.add(life)
            continue
        release, times = life[0]
        if release not in longest or longest[release][0][1] < times:
            longest[release] = life
    return rest | set(longest.values())
