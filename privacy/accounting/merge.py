"""A list of events in its simplest form: what is the same is one event, what costs nothing is gone.

Two lists that release the same have the same plan, so an answer that is kept is found again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from privacy import validate
from privacy.accounting.events import (
    Event,
    FixedSize,
    Gaussian,
    PoissonGaussian,
    PoissonReplace,
    Shuffled,
    TruncatedPoisson,
    Unsupported,
)

Plan = tuple[Event, ...]
Step = TypeVar(
    "Step", bound=Gaussian | PoissonGaussian | TruncatedPoisson | PoissonReplace | FixedSize
)


def merged(who: str, events: Iterable[Event]) -> Plan:
    """The plan of a list of events; unsupported ones stay as they are.

    Raises:
        PrivacyError: something is no event, or the neighbouring relations differ.
    """
    events = list(events)
    for event in events:
        if not isinstance(event, Event):
            raise validate.refusal(
                who, "events", "a list of events", event, "Use Gaussian(mu=1.0)."
            )
    _check_relations(who, events)
    counts: dict[Event, int] = {}
    mu = 0.0
    for event in map(_simplest, events):
        if isinstance(event, Gaussian):
            mu = math.hypot(mu, event.mu * math.sqrt(event.count)) if event.count else mu
        elif isinstance(event, Unsupported):
            counts[event] = 1
        elif _size(event):
            single = _sized(event, 1)
            counts[single] = counts.get(single, 0) + _size(event)
    plan = [_sized(event, count) for event, count in counts.items()]
    if mu:
        plan.append(Gaussian(mu=max(mu, 1e-12)))  # less has no square, and costs nothing less
    return tuple(sorted(plan, key=repr))


def overflow(plan: Plan) -> float:
    """Upper bound on the probability that any batch of the plan was cut short."""
    return math.fsum(e.count * e.overflow for e in plan if isinstance(e, PoissonGaussian))


def single(event: Step) -> Step:
    """One step of an event: what is worth keeping.  What a cap costs is paid at the end."""
    changes: dict[str, Any] = {"count": 1}
    if isinstance(event, PoissonGaussian):
        changes["overflow"] = 0.0
    return replace(event, **changes)


def unamplified(event: Event) -> Gaussian:
    """A Gaussian that is never more private than the event: every unit is in every step."""
    if isinstance(event, Gaussian):
        return event
    assert not isinstance(event, Unsupported)
    z = event.noise_multiplier
    # A cap lets one unit push another out, which is a replacement: 2 clip_norm.
    moved = 1 if isinstance(event, PoissonGaussian | Shuffled) else 2
    return Gaussian(mu=moved / z if z else math.inf, count=_size(event))


def _check_relations(who: str, events: list[Event]) -> None:
    replaces = [e for e in events if isinstance(e, FixedSize | PoissonReplace)]
    others = [e for e in events if isinstance(e, PoissonGaussian | TruncatedPoisson | Shuffled)]
    if replaces and others:
        names = f"{type(replaces[0]).__name__} with {type(others[0]).__name__}"
        rule = "of one neighbouring relation, replacing a unit or zeroing it out"
        raise validate.refusal(who, "events", rule, names, "Use one sampler for the whole run.")
    kinds = {type(event) for event in replaces}
    if len(kinds) > 1:
        names = " with ".join(sorted(kind.__name__ for kind in kinds))
        rule = "of one sampler when a unit is replaced"
        raise validate.refusal(who, "events", rule, names, "Use PoissonReplace in all of them.")


def _simplest(event: Event) -> Event:
    """The event in its simplest form: sampling everyone is no sampling, a wide cap is none."""
    if isinstance(event, TruncatedPoisson) and _never_cut(event):
        q, z, count = event.sampling_prob, event.noise_multiplier, event.count
        event = PoissonGaussian(sampling_prob=q, noise_multiplier=z, count=count)
    if isinstance(event, PoissonGaussian | PoissonReplace | TruncatedPoisson):
        if event.sampling_prob == 0:
            return Gaussian(mu=0.0)
        everyone = event.sampling_prob == 1 and not isinstance(event, TruncatedPoisson)
        if everyone and not overflow((event,)):
            return unamplified(event)
    if isinstance(event, FixedSize):
        if event.cohort == 0:
            return Gaussian(mu=0.0)
        if event.cohort == event.population:
            return unamplified(event)
    return event


def _never_cut(event: TruncatedPoisson) -> bool:
    """Whether the cap is reached with no probability that a float can hold."""
    from scipy.stats import binom

    return bool(binom.sf(event.cap, event.population, event.sampling_prob) == 0)


def _size(event: Event) -> int:
    if isinstance(event, Unsupported):
        return 1
    return event.epochs if isinstance(event, Shuffled) else event.count


def _sized(event: Event, size: int) -> Event:
    if isinstance(event, Unsupported):
        return event
    if isinstance(event, Shuffled):
        return replace(event, epochs=size)
    return replace(event, count=size)
