"""What a run claims: everything recomputed from its folder, nothing taken from its own summary.

The ledger says what was released; `metrics.jsonl` says what rounds there were and who came;
`run.json` says what was meant. Where they do not fit each other, nothing can be claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.core.errors import InputError
from fedsim.core.ledger import Entry
from privacy import validate
from privacy.accounting import Report, TradeOff, tradeoff
from privacy.accounting.ledger_account import LedgerAccount
from privacy.auditing.noise.cohort_sizes import SamplerCheck, check_sizes
from privacy.auditing.run.canary_attack import Findings, examine
from privacy.auditing.run.canary_record import read
from privacy.auditing.run.files import traces
from privacy.auditing.run.verdict import Audit, Claim
from privacy.mechanisms.readers import ledger_account, reader_of

ASSUMED = (
    "numbers of clients and examples are public",
    "noise is from a seeded generator, which protects no one outside of a simulation",
    "all rounds' models are released, and no client colludes with the server",
)
ADVERSARY = "the attacker knows all but coins and noise: what others contribute, and all rounds"
UNTESTED = "the run had no canaries: nothing was measured, and its claim is all there is."


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """What the ledger of a run comes to.

    unit, relation, mechanism, sampler: of its entries, as words. rounds: charged, and planned.
    report: of the client that has spent most; others: what other accountants say of the same.
    curve: the trade-off that is left to any attack; None without a guarantee.
    audit: the claim beside what was looked at, with the verdict.
    """

    unit: str
    relation: str
    mechanism: str
    sampler: str
    noise_by: str
    protects_from: str
    rounds: tuple[int, int]
    report: Report
    others: dict[str, float | None]
    curve: TradeOff | None
    audit: Audit


def claimed(folder: Path, delta: float | None = None) -> Claimed | None:
    """The claim of a run; None where nothing is protected.

    Args:
        folder: of a run, finished or not.
        delta: at which epsilon is given; left out, the run's own.

    Raises:
        InputError: it is no run, or its ledger is not as the run wrote it.
        PrivacyError: delta is not in (0, 1), or canaries saw rounds that are not charged alike.
    """
    left = traces(folder)
    meant, entries = left.meant, left.entries
    if not meant.private and not entries:
        return None
    at = _delta(meant.delta, delta)
    spent = ledger_account(at).charge(entries)
    claim, report, curve = settled(spent)
    first = entries[0] if entries else None
    uncharged = _uncharged(entries, meant.mechanism)
    found = _canaries(folder, entries, meant.unit, at)
    return Claimed(
        unit=meant.unit,
        relation=first.relation if first else meant.relation,
        mechanism=meant.mechanism,
        sampler=_words(first) if first else meant.sampling,
        noise_by=meant.noise_by,
        protects_from=meant.protects_from,
        rounds=(len({entry.round for entry in entries}), meant.rounds),
        report=report,
        others=spent.beside(),
        curve=curve,
        audit=Audit(
            claim=claim,
            sampler=_cohorts(first, left.sizes, meant.population),
            warnings=(
                *spent.warnings(),
                *_caveats(report, entries),
                *_repeated(left.repeated),
                *_if(uncharged, f"{uncharged}."),
                *_if(not found, UNTESTED),
            ),
            unsupported=uncharged,
            assumptions=(*ASSUMED, *_if(found, ADVERSARY)),
            details={"seed": meant.seed, "versions": meant.versions},
            **(vars(found) if found else {}),
        ),
    )


def _delta(own: float | None, given: float | None) -> float:
    """At which epsilon is given: the one that is asked for, or else the run's own."""
    at = own if given is None else given
    if at is None:
        raise InputError(
            "audit: --delta must be given for a run that does not say its own; got none. Use 1e-5."
        )
    validate.delta("audit", at)
    return at


def _if(holds: object, words: str) -> list[str]:
    return [words] if holds else []


def settled(spent: LedgerAccount) -> tuple[Claim, Report, TradeOff | None]:
    """What an account claims, its report, and what is left to any attack where it guarantees."""
    report = spent.report()
    curve = tradeoff(spent.worst()) if report.guarantee else None
    claim = Claim(
        epsilon=report.epsilon,
        delta=spent.delta,
        method=report.method,
        reason=report.reason,
        gaussian=curve is not None and curve.mu is not None,
    )
    return claim, report, curve


def _canaries(folder: Path, entries: Sequence[Entry], unit: str, delta: float) -> Findings | None:
    """What a run's canaries found; None where it had none.

    Raises:
        InputError: the canaries' files are not as the run wrote them.
        PrivacyError: rounds are not charged alike.
    """
    record = read(folder, unit)
    return None if record is None else examine(record, entries, delta)


def _words(entry: Entry) -> str:
    numbers = {key: value for key, value in entry.sampler.items() if key not in ("kind", "group")}
    shown = ", ".join(
        f"{key}={value:g}" if validate.is_number(value) else f"{key}={value}"
        for key, value in numbers.items()
    )
    return f"{entry.sampler['kind']}({shown})"


def _cohorts(first: Entry | None, sizes: Sequence[int], population: int) -> SamplerCheck | None:
    """Whether as many clients came as the sampler that was charged for brings."""
    if first is None or not reader_of(first).audit(first).cohorts_follow_sampler:
        return None
    return check_sizes(first.sampler, sizes, population)


def _caveats(report: Report, entries: Sequence[Entry]) -> list[str]:
    """What the mechanisms themselves say of their claim, each said once."""
    found = [words for e in entries for words in reader_of(e).caveats(e, report.lower)]
    return list(dict.fromkeys(found))


def _uncharged(entries: Sequence[Entry], mechanism: str) -> str:
    """What the ledger does not pay for; empty where it pays for all."""
    found = (reader_of(entry).uncharged(entry, mechanism) for entry in entries)
    return next((words for words in found if words), "")


def _repeated(spans: Sequence[tuple[int, int]]) -> list[str]:
    """What a run that was killed and resumed takes for granted."""
    if not spans:
        return []
    rounds = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)
    return [
        f"budget of a resumed run: rounds {rounds} were done twice and charged once, which is "
        "right only where the same machine, width and workers released the same bits."
    ]
