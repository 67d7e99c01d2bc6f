"""What a mechanism releases, as records: what an accountant needs to know, and nothing else.

    release            its event
    PlainGaussian      Gaussian
    SampledGaussian    PoissonGaussian
    TruncatedGaussian  TruncatedPoisson
    FixedSizeGaussian  FixedSize
    ShuffledGaussian   Shuffled
    CorrelatedRounds   one Gaussian for all rounds that a client took part in
    CorrelatedEpochs   one Gaussian for all passes over a client's examples
    NoGuarantee        Unsupported

A mechanism's file makes one of these from each ledger entry that it wrote. An entry may also carry
its release as data, `details["release"] = release.describe()`, and is then accounted without the
mechanism's file. Releases that are equal are one to an accountant; it counts how often each client
took part.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any

from fedsim.core.errors import PrivacyError, unknown
from fedsim.core.ledger import Entry
from privacy.accounting.events import (
    Event,
    FixedSize,
    Gaussian,
    PoissonGaussian,
    Shuffled,
    TruncatedPoisson,
    Unsupported,
)
from privacy.accounting.lower_bounds import warning
from privacy.matrix_factorization import MinSeparation, Observed, rebuild_strategy, sensitivity
from privacy.validate import Array, refusal

Times = tuple[int, ...]
"""How often a client took part, as (count,); of correlated noise, its rounds, from 0."""


class Release(ABC):
    """A kind of release. Concrete ones are frozen dataclasses of numbers and strings."""

    @abstractmethod
    def event(self, times: Times, rounds: int) -> Event:
        """What it comes to for a client that took part so often, in a run of so many rounds."""

    def times(self, entry: Entry) -> Times:
        """How often each client of an entry took part: passes over its data, or else steps."""
        return (int(entry.sampler.get("passes", entry.steps)),)

    def added(self, before: Times, more: Times) -> Times:
        """How often after both."""
        return (sum(before) + sum(more),)

    @property
    def more_is_worse(self) -> bool:
        """Whether a client that took part more often has always spent more."""
        return True

    def warning(self) -> str | None:
        """Why a plan with this release may be neither private nor useful, or None."""
        return None

    def key(self) -> tuple[Any, ...]:
        """For sorting among releases."""
        return (type(self).__name__, *astuple(self))  # type: ignore[call-overload]

    def describe(self) -> dict[str, Any]:
        """As plain values, for `details["release"]` of a ledger's entry."""
        return {"kind": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True)
class PlainGaussian(Release):
    """Noise on a sum, nothing amplified. mu: sensitivity / noise_std of one release."""

    mu: float

    def event(self, times: Times, rounds: int) -> Event:
        """One Gaussian mechanism for each time."""
        return Gaussian(mu=self.mu, count=sum(times))


@dataclass(frozen=True, kw_only=True)
class SampledGaussian(Release):
    """Every unit is in each sum by its own coin; see `events.PoissonGaussian`."""

    sampling_prob: float
    noise_multiplier: float
    overflow: float = 0.0

    def event(self, times: Times, rounds: int) -> Event:
        """A step of Poisson sampling for each time."""
        return PoissonGaussian(
            sampling_prob=self.sampling_prob,
            noise_multiplier=self.noise_multiplier,
            count=sum(times),
            overflow=self.overflow,
        )

    def warning(self) -> str | None:
        """What sampling cannot hide with so little noise."""
        if not 0 < self.sampling_prob < 1:
            return None
        return warning(self.noise_multiplier, max(2, round(1 / self.sampling_prob)))


@dataclass(frozen=True, kw_only=True)
class TruncatedGaussian(Release):
    """As sampled, but of a large sample a random subset is kept; see `events.TruncatedPoisson`."""

    sampling_prob: float
    noise_multiplier: float
    population: int
    cap: int

    def event(self, times: Times, rounds: int) -> Event:
        """A step of truncated Poisson sampling for each time."""
        return TruncatedPoisson(
            sampling_prob=self.sampling_prob,
            noise_multiplier=self.noise_multiplier,
            population=self.population,
            cap=self.cap,
            count=sum(times),
        )


@dataclass(frozen=True, kw_only=True)
class FixedSizeGaussian(Release):
    """A sample of fixed size, one unit replaced by another; noise over the clip norm."""

    population: int
    cohort: int
    noise_multiplier: float

    def event(self, times: Times, rounds: int) -> Event:
        """A step of sampling without replacement for each time."""
        return FixedSize(
            population=self.population,
            cohort=self.cohort,
            noise_multiplier=self.noise_multiplier,
            count=sum(times),
        )


@dataclass(frozen=True, kw_only=True)
class ShuffledGaussian(Release):
    """A pass over shuffled or ordered batches, nothing amplified; see `events.Shuffled`."""

    noise_multiplier: float
    batches: int

    def event(self, times: Times, rounds: int) -> Event:
        """An epoch for each time."""
        return Shuffled(
            noise_multiplier=self.noise_multiplier, batches=self.batches, epochs=sum(times)
        )

    def warning(self) -> str | None:
        """What shuffling cannot hide with so little noise."""
        return warning(self.noise_multiplier, self.batches) if self.batches > 1 else None


@dataclass(frozen=True, kw_only=True)
class CorrelatedRounds(Release):
    """Noise that is correlated across rounds. factorization: as JSON, as a ledger has it."""

    noise_multiplier: float
    factorization: str

    def times(self, entry: Entry) -> Times:
        """The round, from 0."""
        return (entry.round - 1,)

    def added(self, before: Times, more: Times) -> Times:
        """All of its rounds."""
        return (*before, *more)

    @property
    def more_is_worse(self) -> bool:
        """It depends on how far apart rounds are."""
        return False

    def event(self, times: Times, rounds: int) -> Event:
        """One Gaussian mechanism, of the sensitivity to the rounds that a client took part in."""
        strategy = _so_far(self.factorization, rounds)
        return Gaussian(mu=sensitivity(strategy, Observed((times,))).value / self.noise_multiplier)


@dataclass(frozen=True, kw_only=True)
class CorrelatedEpochs(Release):
    """Noise that is correlated across a client's local steps; each example is once in an epoch.

    apart: steps between an example's turns, at least. batches: steps of an epoch.
    """

    noise_multiplier: float
    apart: int
    batches: int
    factorization: str

    def event(self, times: Times, rounds: int) -> Event:
        """One Gaussian mechanism, of the sensitivity to any turns that far apart."""
        epochs = sum(times)
        strategy = _so_far(self.factorization, epochs * self.batches)
        schema = MinSeparation(separation=self.apart, most=epochs)
        return Gaussian(mu=sensitivity(strategy, schema).value / self.noise_multiplier)


@dataclass(frozen=True, kw_only=True)
class NoGuarantee(Release):
    """A release for which nothing is known."""

    reason: str

    def event(self, times: Times, rounds: int) -> Event:
        """Nothing."""
        return Unsupported(reason=self.reason)


_KINDS: dict[str, type[Release]] = {
    kind.__name__: kind
    for kind in (
        PlainGaussian,
        SampledGaussian,
        TruncatedGaussian,
        FixedSizeGaussian,
        ShuffledGaussian,
        CorrelatedRounds,
        CorrelatedEpochs,
        NoGuarantee,
    )
}


def release_from(description: Mapping[str, Any]) -> Release:
    """The release that `describe` wrote down.

    Raises:
        InputError: there is no such kind of release.
        PrivacyError: a field is missing, unknown, or neither a number nor a string.
    """
    fields = dict(description)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise unknown("ledger", "kind of release", str(kind), _KINDS)
    rule = f"the fields of {kind}, numbers and strings"
    remedy = "Write what `describe` returns."
    if not all(isinstance(value, int | float | str) for value in fields.values()):
        raise refusal("ledger", "release", rule, fields, remedy)
    try:
        return _KINDS[kind](**fields)
    except TypeError as error:
        raise refusal("ledger", "release", rule, fields, remedy) from error


def described_release(entry: Entry) -> Release:
    """The release that an entry describes in its details; no guarantee where it describes none."""
    if "release" in entry.details:
        return release_from(entry.details["release"])
    return no_guarantee(entry)


def no_guarantee(entry: Entry) -> NoGuarantee:
    """The release of an entry that no accountant understands."""
    return NoGuarantee(reason=f"{entry.mechanism} with {entry.sampler['kind']} sampling")


def multiplier_of(entry: Entry) -> float:
    """The noise multiplier of a step: several questions of one sample are one release."""
    return entry.noise_multiplier / math.sqrt(entry.calls)


def _so_far(factorization: str, steps: int) -> Array:
    """The strategy matrix, [n] or [n, n], of the first steps.

    Raises:
        PrivacyError: the noise was made for fewer.
    """
    strategy = rebuild_strategy(factorization)
    if steps > len(strategy):
        raise PrivacyError(
            f"correlated_noise: steps must be at most {len(strategy)}, for which the noise was "
            f"made; got {steps}. Make it for more."
        )
    return strategy[:steps] if strategy.ndim == 1 else strategy[:steps, :steps]
