"""What a ledger comes to: every entry as an event that accountants understand, client by client.

Examples of different clients are different examples: what their clients do composes in parallel,
and the worst client's sum is what the run has spent. Accountants see entries alone, never the
mechanism's own idea of itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from fedsim.core.errors import PrivacyError
from fedsim.core.ledger import Entry, read_ledger
from privacy import validate
from privacy.accounting import (
    Event,
    FixedSize,
    Gaussian,
    PoissonGaussian,
    Report,
    Shuffled,
    TruncatedPoisson,
    Unsupported,
    account,
    beside,
    epsilon,
    warning,
)
from privacy.matrix_factorization import (
    MinSeparation,
    Observed,
    Single,
    rebuild_strategy,
    sensitivity,
)

EVERYBODY = -1  # the client of an entry that names none


class Use(NamedTuple):
    """A kind of release. Whatever makes two of them differ for an accountant is in here.

    numbers: what the kind needs, in its own order. text: of a factorization, as JSON.
    """

    kind: str
    numbers: tuple[float, ...]
    text: str = ""


Times = tuple[int, ...]
"""How often a client did something, as [count]; of correlated noise, in which steps."""


@dataclass(frozen=True)
class Spending:
    """An account of a ledger at one delta.

    uses: use -> client -> times.
    rounds: the last round charged.

    Guarantees:
        It depends on the entries alone, not on their order among clients.
        What has no guarantee gives no number.
    """

    delta: float
    uses: Mapping[Use, Mapping[int, Times]] = field(default_factory=dict)
    rounds: int = 0

    def charge(self, entries: Iterable[Entry]) -> Spending:
        """The account with these entries on top.

        Raises:
            PrivacyError: a client takes part more often than its mechanism is made for.
        """
        uses, rounds = dict(self.uses), self.rounds
        for entry in entries:
            use, times = _use(entry)
            before = dict(uses.get(use, {}))
            alike = int(entry.sampler.get("group", EVERYBODY))  # groups have their own turns
            for client in entry.clients or (alike,):
                before[client] = _after(use, before.get(client, ()), times)
            uses[use] = before
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
        """What other accountants say of whoever has spent most; to be looked at, not built on."""
        events = self.worst()
        return beside(events, self.delta) if events else {}

    def worst(self) -> list[Event]:
        """The events of whoever has spent most."""
        found = [(epsilon(events, self.delta), events) for events in self.histories()]
        if not found:
            return []
        return max(found, key=lambda one: math.inf if one[0] is None else one[0])[1]

    def warnings(self) -> list[str]:
        """Why a plan may be neither private nor useful, each said once."""
        found = []
        for use in self.uses:
            if use.kind == "poisson" and 0 < use.numbers[0] < 1:
                found.append(warning(use.numbers[1], max(2, round(1 / use.numbers[0]))))
            if use.kind == "shuffled" and use.numbers[1] > 1:
                found.append(warning(use.numbers[0], int(use.numbers[1])))
        return sorted({one for one in found if one is not None})

    def histories(self) -> list[list[Event]]:
        """The events of each client, those of clients that did the same only once."""
        shared = {use: by[EVERYBODY] for use, by in self.uses.items() if EVERYBODY in by}
        clients = {client for by in self.uses.values() for client in by} - {EVERYBODY}
        lives = {
            tuple((use, by[client]) for use, by in self.uses.items() if client in by)
            for client in clients
        } or {()}
        lives = _without_shorter(lives)
        return [
            [_event(use, times, self.rounds) for use, times in (*shared.items(), *life)]
            for life in sorted(lives)
        ]


Life = tuple[tuple[Use, Times], ...]


def _without_shorter(lives: set[Life]) -> set[Life]:
    """Of lives that differ only in how often one thing was done, the longest."""
    kept: dict[tuple[Use, ...], Life] = {}
    rest: set[Life] = set()
    for life in lives:
        uses = tuple(use for use, _ in life)
        if len(life) != 1 or life[0][0].kind == "correlated":
            rest.add(life)
        elif uses not in kept or kept[uses] < life:
            kept[uses] = life
    return rest | set(kept.values())


def read(path: Path, delta: float) -> Spending:
    """The account of a `ledger.jsonl`.

    Raises:
        InputError: the ledger was changed.
        PrivacyError: delta is not in (0, 1).
    """
    validate.delta("ledger", delta)
    return Spending(delta).charge(read_ledger(path)[0])


def _use(entry: Entry) -> tuple[Use, Times]:
    """What an entry is for an accountant, and how often each of its clients did it."""
    kind, sampler = str(entry.sampler["kind"]), entry.sampler
    z = entry.noise_multiplier / math.sqrt(entry.calls)  # several questions of one sample are one
    numbers: tuple[float, ...]
    passes, batches = int(sampler.get("passes", 1)), int(sampler.get("batches", 1))
    if entry.mechanism == "gaussian" and "most" in sampler:
        numbers = (float(sampler["sampling_prob"]), z)
        return Use("truncated", (*numbers, sampler["population"], sampler["most"])), (1,)
    if entry.mechanism == "gaussian" and kind in ("poisson", "grouped"):
        numbers = (float(sampler["sampling_prob"]), z, float(sampler.get("overflow", 0.0)))
        return Use("poisson", numbers), (entry.steps,)
    if entry.mechanism == "gaussian" and kind in ("shuffled", "ordered"):
        return Use("shuffled", (z, float(batches))), (passes,)
    if entry.mechanism == "gaussian" and kind == "fixed":
        sizes = (float(sampler["population"]), float(sampler["cohort"]))
        return Use("fixed", (*sizes, 2 * z)), (entry.steps,)  # there it is over the clip norm
    if entry.mechanism == "gaussian" and kind == "cyclic":
        return Use("gaussian", (1 / z,)), (entry.steps,)
    if entry.mechanism == "local":
        return Use("gaussian", (1 / z,)), (entry.steps,)
    if entry.mechanism == "error_feedback" and entry.details.get("largest") is not None:
        numbers = (
            float(entry.details["clip_norm"]),
            float(entry.details["largest"]),
            entry.noise_std,
        )
        return Use("error_feedback", numbers), (entry.steps if kind == "poisson" else passes,)
    if entry.mechanism == "correlated":
        made = json.dumps(entry.details["factorisation"], sort_keys=True)
        if kind == "grouped":  # a round of a unit has nothing in common with its other ones
            longest = sensitivity(rebuild_strategy(made), Single()).value
            return Use("poisson", (float(sampler["sampling_prob"]), z / longest, 0.0)), (1,)
        if entry.unit == "client":
            return Use("correlated", (z, 0.0, 0.0), made), (entry.round - 1,)
        apart = batches if kind == "ordered" else 1
        return Use("correlated epochs", (z, float(apart), float(batches)), made), (passes,)
    return Use("unsupported", (), f"{entry.mechanism} with {kind} sampling"), (entry.steps,)


def _after(use: Use, before: Times, more: Times) -> Times:
    if use.kind == "correlated":
        return (*before, *more)
    return (sum(before) + sum(more),)


def _event(use: Use, times: Times, rounds: int) -> Event:
    """What a client's use comes to."""
    count, numbers = sum(times), use.numbers
    if use.kind == "poisson":
        return PoissonGaussian(
            sampling_prob=numbers[0], noise_multiplier=numbers[1], count=count, overflow=numbers[2]
        )
    if use.kind == "truncated":
        return TruncatedPoisson(
            sampling_prob=numbers[0],
            noise_multiplier=numbers[1],
            population=int(numbers[2]),
            cap=int(numbers[3]),
            count=count,
        )
    if use.kind == "shuffled":
        return Shuffled(noise_multiplier=numbers[0], batches=int(numbers[1]), epochs=count)
    if use.kind == "fixed":
        return FixedSize(
            population=int(numbers[0]),
            cohort=int(numbers[1]),
            noise_multiplier=numbers[2],
            count=count,
        )
    if use.kind == "gaussian":
        return Gaussian(mu=numbers[0], count=count)
    if use.kind == "error_feedback":
        return Gaussian(mu=error_feedback_mu(*numbers, times=count))
    if use.kind.startswith("correlated"):
        return _correlated(use, times, rounds)
    return Unsupported(reason=use.text)


def error_feedback_mu(clip_norm: float, largest: float, noise_std: float, *, times: int) -> float:
    """Mu of DiceSGD for an example that takes part k times: (sqrt(k) C1 + k (G - C1)+) / noise_std.

    No amplification by sampling: what clipping cut off an example comes back in later steps, in
    which it was not drawn. Derived in docs/guides/privacy.md.

    Args:
        clip_norm: C1.
        largest: G, which every example's gradient is cut to before anything else.
        noise_std: on a step's sum.
        times: k.
    """
    return (math.sqrt(times) * clip_norm + times * max(0.0, largest - clip_norm)) / noise_std


def _correlated(use: Use, times: Times, rounds: int) -> Event:
    """One Gaussian mechanism for all steps so far together, at the sensitivity that was seen."""
    strategy = rebuild_strategy(use.text)
    z, apart, batches = use.numbers
    steps = rounds if use.kind == "correlated" else sum(times) * int(batches)
    if steps > len(strategy):
        raise PrivacyError(
            f"correlated_noise: steps must be at most {len(strategy)}, for which the noise was "
            f"made; got {steps}. Make it for more."
        )
    so_far = strategy[:steps] if strategy.ndim == 1 else strategy[:steps, :steps]
    schema = (
        Observed((times,))
        if use.kind == "correlated"
        else MinSeparation(separation=int(apart), most=sum(times))
    )
    return Gaussian(mu=sensitivity(so_far, schema).value / z)
