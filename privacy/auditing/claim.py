"""What a run claims: everything recomputed from its folder, nothing taken from its own summary.

The ledger says what was released; `metrics.jsonl` says what rounds there were and who came;
`run.json` says what was meant. Where they do not fit each other, nothing can be claimed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from fedsim.folder import LEDGER, read_description, read_metrics
from fedsim.ledger import Entry, read_ledger
from fedsim.validate import InputError
from privacy import checks
from privacy.accounting import Report, TradeOff, tradeoff
from privacy.spending import Spending

RARE = 1e-4  # a check of who came fails by chance in one run of ten thousand


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at. passed: None where it does not apply."""

    name: str
    passed: bool | None
    found: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the ledger of a run comes to.

    unit, relation, mechanism, sampler: of its entries, as words. rounds: charged, and planned.
    report: of whoever has spent most; others: what other accountants say of the same.
    curve: the trade-off that is left to any attack; None without a guarantee.
    """

    unit: str
    relation: str
    mechanism: str
    sampler: str
    noise_by: str
    protects_from: str
    delta: float
    rounds: tuple[int, int]
    report: Report
    others: dict[str, float | None]
    curve: TradeOff | None
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]

    @property
    def supported(self) -> bool:
        """Whether there is a guarantee and no check has failed."""
        return self.report.guarantee and all(check.passed is not False for check in self.checks)


def claimed(folder: Path, delta: float | None = None) -> Claim | None:
    """The claim of a run; None where nobody is protected.

    Args:
        folder: of a run, finished or not.
        delta: at which epsilon is given; left out, the run's own.

    Raises:
        InputError: it is no run, or its ledger is not as the run wrote it.
        PrivacyError: delta is not in (0, 1).
    """
    description = read_description(folder)
    privacy = description["privacy"]
    if not (folder / LEDGER).is_file():
        raise InputError(
            f"audit: the folder must have its ledger.jsonl; got {str(folder)!r} without. "
            "Take it from a copy of the run folder."
        )
    entries, seal = read_ledger(folder / LEDGER)
    if privacy["unit"] == "none" and not entries:
        return None
    at = privacy.get("delta") if delta is None else delta
    if at is None:
        raise InputError(
            "audit: --delta must be given for a run that does not say its own; got none. Use 1e-5."
        )
    checks.failure("audit", at)
    metrics = read_metrics(folder)
    _whole(folder, entries, seal, [row["round"] for row in metrics])
    spent = Spending(at).charge(entries)
    report = spent.report()
    first = entries[0] if entries else None
    return Claim(
        unit=privacy["unit"],
        relation=first.relation if first else privacy["relation"],
        mechanism=privacy["mechanism"],
        sampler=_words(first) if first else privacy["sampling"],
        noise_by=privacy["noise_by"],
        protects_from=privacy["protects_from"],
        delta=at,
        rounds=(len({entry.round for entry in entries}), description["rounds"]),
        report=report,
        others=spent.beside(),
        curve=tradeoff(spent.worst()) if report.guarantee else None,
        checks=(
            _as_meant(entries, privacy["unit"]),
            _cohorts(entries, [row["cohort"] for row in metrics], description),
        ),
        warnings=(*spent.warnings(), *_warnings(report, entries)),
    )


def _whole(folder: Path, entries: Sequence[Entry], seal: str, rounds: Sequence[int]) -> None:
    """Refuse a ledger that lacks its end.

    Raises:
        InputError: a round was worked on that is not in it, or the summary knows another seal.
    """
    missing = sorted(set(rounds) - {entry.round for entry in entries})
    summary = folder / "summary.json"
    known = json.loads(summary.read_text("utf-8"))["privacy"] if summary.is_file() else {}
    if known.get("seal", seal) != seal or (missing and entries and missing[-1] > entries[-1].round):
        last = entries[-1].round if entries else 0
        raise InputError(
            f"audit: ledger.jsonl must go to the end of the run; got one that ends with round "
            f"{last}. Take it from a copy of the run folder."
        )


def _words(entry: Entry) -> str:
    numbers = {key: value for key, value in entry.sampler.items() if key not in ("kind", "group")}
    shown = ", ".join(f"{key}={value:g}" for key, value in numbers.items())
    return f"{entry.sampler['kind']}({shown})"


def _as_meant(entries: Sequence[Entry], unit: str) -> Check:
    units = {entry.unit for entry in entries}
    return Check(
        name="unit",
        passed=units <= {unit},
        found=f"the run meant to protect {unit}s, its ledger has {', '.join(sorted(units))}s",
    )


def _cohorts(entries: Sequence[Entry], sizes: Sequence[int], description: dict[str, Any]) -> Check:
    """Whether as many clients came as the sampler that was charged for brings.

    Poisson cohorts have binomial sizes: their mean and their variance are looked at, because a
    fixed size has the right mean and no variance.
    """
    kinds = {entry.sampler["kind"] for entry in entries if entry.unit == "client"}
    q, n = description["cohort"] / description["population"], description["population"]
    if kinds == {"fixed"}:
        wrong = sorted({size for size in sizes if size != description["cohort"]})
        return Check(
            name="sampler",
            passed=not wrong,
            found=f"cohorts of exactly {description['cohort']}"
            + (f", but also of {wrong[0]}" if wrong else ""),
        )
    capped = any("most" in entry.sampler for entry in entries)
    if kinds != {"poisson"} or capped or len(sizes) < 5 or not 0 < q < 1:
        return Check(name="sampler", passed=None, found="sizes of cohorts say nothing here")
    total, spread = sum(sizes), sum((size - n * q) ** 2 for size in sizes)
    by_mean = float(stats.binomtest(total, len(sizes) * n, q).pvalue)
    chi = stats.chi2(len(sizes))
    scaled = spread / (n * q * (1 - q))
    by_variance = float(2 * min(chi.cdf(scaled), chi.sf(scaled)))
    p = min(1.0, 2 * min(by_mean, by_variance))
    return Check(
        name="sampler",
        passed=p > RARE,
        found=f"sizes of {len(sizes)} cohorts against Poisson with q = {q:g}: p = {p:.2g}",
    )


def _warnings(report: Report, entries: Sequence[Entry]) -> list[str]:
    found = []
    kinds = {entry.sampler["kind"] for entry in entries}
    if kinds & {"shuffled", "ordered"}:
        found.append(
            "batches are not Poisson: nothing is amplified, and the truth lies between "
            f"{report.lower or 0:.4g} and the claim."
        )
    if any(entry.mechanism == "error_feedback" for entry in entries):
        found.append("error feedback: what its paper calibrates for is no proof (docs/privacy.md).")
    if report.reason:
        found.append(report.reason)
    return found
