"""How to read the ledger entries of one mechanism: what was released, and how to audit it.

Each mechanism's file has an `EntryReader` beside the function that writes its entries, and
`privacy/mechanisms/readers.py` is the table of all of them. An entry of a mechanism that is not in
the table says the same as data:

    details["release"] = SampledGaussian(sampling_prob=0.1, noise_multiplier=1.0).describe()
    details["audit"] = AuditModel(noise=1.0, sampling_prob=0.1).describe()

so that a run folder alone is enough to account and audit a mechanism in a user's own file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedsim.core.ledger import Entry
from privacy import validate
from privacy.accounting.releases import Release, described_release
from privacy.matrix_factorization import rebuild_strategy, toeplitz
from privacy.validate import Array


@dataclass(frozen=True, kw_only=True)
class AuditModel:
    """What an audit needs to know of a release: how its canaries are observed.

    In units of the clip norm, an observation is what the canary sent plus noise N(0, noise^2).

    Attributes:
        noise: the standard deviation of the noise on each number of the sum, over the clip norm.
        factorization: of noise that is correlated over time, as JSON; empty for independent noise.
        each_update: a canary is observed in its own noised update, and is in no sum.
        asked_is_public: an adversary knows who is asked.
        sampling_prob: else, the probability that a canary is asked in a round of its group.
        groups: that take turns, round by round.
        cohorts_follow_sampler: the guarantee rests on cohorts being drawn by the entry's sampler.
        sums_in_steps: a step's answer is a sum over the public batch size, so that the noise of
            steps that are watched one by one is in known units.
    """

    noise: float
    factorization: str = ""
    each_update: bool = False
    asked_is_public: bool = False
    sampling_prob: float = 1.0
    groups: int = 1
    cohorts_follow_sampler: bool = False
    sums_in_steps: bool = True

    def __post_init__(self) -> None:
        validate.noise("AuditModel", self.noise)
        validate.probability("AuditModel", "sampling_prob", self.sampling_prob)
        validate.whole("AuditModel", "groups", self.groups, 1)

    def strategy(self, rounds: int) -> Array | None:
        """M for so many rounds [T, T]; None where noise is independent."""
        if not self.factorization:
            return None
        made = rebuild_strategy(self.factorization)
        return toeplitz.to_matrix(made[:rounds]) if made.ndim == 1 else made[:rounds, :rounds]

    def describe(self) -> dict[str, Any]:
        """As plain values, for `details["audit"]` of a ledger's entry."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EntryReader:
    """How the entries of one mechanism are read.

    wrote: whether an entry is one of them.
    release: entry -> its release.
    audit: entry -> how canaries are observed in it.
    caveats: (entry, lower bound on epsilon or None) -> what a reader of the claim should know.
    uncharged: (entry, the mechanism's name as printed) -> what the entry does not pay for; empty
        where it pays for all of it.
    """

    wrote: Callable[[Entry], bool]
    release: Callable[[Entry], Release]
    audit: Callable[[Entry], AuditModel]
    caveats: Callable[[Entry, float | None], tuple[str, ...]] = lambda entry, lower: ()
    uncharged: Callable[[Entry, str], str] = lambda entry, name: ""


def written_by(unit: str, mechanism: str) -> Callable[[Entry], bool]:
    """Whether an entry has this unit and this mechanism."""
    return lambda entry: (entry.unit, entry.mechanism) == (unit, mechanism)


def described_audit(entry: Entry) -> AuditModel:
    """The audit model that an entry describes in its details.

    Without one, what the entry's own fields say: the noise over the sensitivity, and the sampling
    probability of its sampler, or none.

    Raises:
        PrivacyError: a field is unknown or out of its range.
    """
    described = entry.details.get("audit")
    if described is None:
        return AuditModel(
            noise=entry.noise_std / entry.sensitivity,
            sampling_prob=float(entry.sampler.get("sampling_prob", 1.0)),
        )
    try:
        return AuditModel(**described)
    except TypeError as error:
        rule, remedy = "the fields of AuditModel", "Write what `describe` returns."
        raise validate.refusal("ledger", "audit", rule, described, remedy) from error


SELF_DESCRIBED = EntryReader(
    wrote=lambda entry: True, release=described_release, audit=described_audit
)


def factorization_of(details: Mapping[str, Any]) -> str:
    """The factorization in an entry's details, as JSON with sorted keys."""
    return json.dumps(details["factorisation"], sort_keys=True)
