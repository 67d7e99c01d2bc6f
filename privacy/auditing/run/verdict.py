"""What an audit found, and what that means for what was claimed.

    code  verdict
    0     CONSISTENT    nothing that was found contradicts the claim; that proves no privacy
    3     VIOLATED      a lower bound is above the claim: there is a bug
    4     UNSUPPORTED   there is no claim, or the run did not sample as its ledger says
    5     INCONCLUSIVE  there were canaries, but too few to say anything

A violation that is proved outranks a claim that is not supported, and both outrank canaries that
are too few.  A bound that takes something for granted warns, and proves only where that is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedsim.core.jsonl import to_plain
from privacy import validate
from privacy.auditing.bounds.clopper_pearson import Counts
from privacy.auditing.bounds.cosine import LEAST_CANARIES, Estimate
from privacy.auditing.bounds.lower_bound import GAUSSIAN, LowerBound
from privacy.auditing.noise.cohort_sizes import SamplerCheck
from privacy.auditing.noise.round_test import Quiet
from privacy.auditing.noise.step_test import Wiring
from privacy.validate import delta as check_delta

NAMES = {0: "CONSISTENT", 3: "VIOLATED", 4: "UNSUPPORTED", 5: "INCONCLUSIVE"}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the ledger comes to.

    Attributes:
        epsilon: None where nothing is guaranteed; inf where nothing is hidden.
        delta: that epsilon is for.
        method: which accountant computed it.
        reason: why there is no guarantee; empty where there is one.
        gaussian: whether the mechanism's trade-off is known to be Gaussian.
    """

    epsilon: float | None
    delta: float
    method: str
    reason: str = ""
    gaussian: bool = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """code: the exit code. alpha: how often, at most, a VIOLATED is wrong."""

    code: int
    reason: str
    alpha: float = 0.0

    @property
    def name(self) -> str:
        """In one word."""
        return NAMES[self.code]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found.

    Attributes:
        claim: what is to be contradicted.
        sampler: whether cohorts were drawn as claimed, where that was looked at.
        wiring: what canaries saw of the noise in single steps.
        quiet: whether every round had its noise.
        bounds: empirical lower bounds on epsilon.
        estimate: one number without confidence.
        counts: how often an attack on all canaries was right.
        canaries: how many the run had; None where none were asked for.
        warnings: what a person should know who believes the claim.
        unsupported: what the claim leaves out, whatever the cohorts are; empty where nothing.
        assumptions: what the claim and the audit take for granted.
        details: anything else for the JSON document: seeds, versions, the mechanism.

    Raises:
        PrivacyError: a bound is for a smaller delta than the claim, about which it says nothing.
    """

    claim: Claim
    sampler: SamplerCheck | None = None
    wiring: tuple[Wiring, ...] = ()
    quiet: Quiet | None = None
    bounds: tuple[LowerBound, ...] = ()
    estimate: Estimate | None = None
    counts: Counts | None = None
    canaries: int | None = None
    warnings: tuple[str, ...] = ()
    unsupported: str = ""
    assumptions: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_delta("Audit", self.claim.delta)
        for bound in self.bounds:
            if bound.delta < self.claim.delta:
                rule = f"at least that of the claim, {self.claim.delta:g}"
                raise validate.refusal("Audit", "delta", rule, bound.delta, "Bound it there.")

    @property
    def verdict(self) -> Verdict:
        """What it all means.

        Guarantees:
            A violation that is proved outranks all else.
            A bound that takes something for granted proves nothing unless that is known.
        """
        alpha = sum(bound.alpha for bound in self.proofs) + sum(w.alpha / 2 for w in self.wiring)
        alpha += 0.0 if self.quiet is None else self.quiet.alpha
        broken = self._violation()
        if broken:
            return Verdict(code=3, reason=broken, alpha=min(1.0, alpha))
        claimed = self.claim.epsilon
        if claimed is None or not math.isfinite(claimed):
            return Verdict(code=4, reason=self.claim.reason or "no epsilon is claimed")
        if self.unsupported:
            return Verdict(code=4, reason=self.unsupported)
        if self.sampler is not None and not self.sampler.passed:
            return Verdict(code=4, reason=f"the sampler is not as claimed: {self.sampler.reason}")
        if self.canaries is not None and self.canaries < LEAST_CANARIES:
            words = f"{self.canaries} canaries, and at least {LEAST_CANARIES} are needed"
            return Verdict(code=5, reason=words)
        best = max((bound.epsilon for bound in self.proofs), default=None)
        if best is None:
            return Verdict(code=0, reason="nothing was found that contradicts the claim")
        return Verdict(code=0, reason=f"lower bound {best:.2f} <= claimed {claimed:.2f}")

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Those that were given, and those that the findings call for."""
        return (*self.warnings, *self._own_warnings())

    @property
    def noise(self) -> tuple[Wiring | Quiet, ...]:
        """All that was found of the noise."""
        return self.wiring if self.quiet is None else (*self.wiring, self.quiet)

    @property
    def proofs(self) -> tuple[LowerBound, ...]:
        """Bounds that take nothing for granted but what is known."""
        known = {"", GAUSSIAN} if self.claim.gaussian else {""}
        return tuple(bound for bound in self.bounds if bound.hypothesis in known)

    def _violation(self) -> str:
        claimed = self.claim.epsilon
        if claimed is not None:
            for bound in self.proofs:
                if bound.epsilon > claimed:
                    return f"lower bound {bound.epsilon:.4g} > claimed {claimed:.4g} ({bound})"
        for seen in self.noise:
            if seen.leaks:
                return f"there is less noise than claimed: {seen}"
        return ""

    def _own_warnings(self) -> list[str]:
        found, claimed = list[str](), self.claim.epsilon
        if claimed is None or not math.isfinite(claimed):
            return found
        above = f"is above the claimed {claimed:.2f}"
        for bound in self.bounds:
            if bound not in self.proofs and bound.epsilon > claimed:
                found.append(f"{bound} {above}, if what it takes for granted is true")
        if self.estimate is not None and self.estimate.epsilon > claimed:
            found.append(f"the estimate {self.estimate.epsilon:.2f} {above}; it has no confidence")
        most = [bound.ceiling for bound in self.proofs if bound.ceiling is not None]
        if most and max(most) <= claimed:
            found.append(
                f"not even a perfect attack could have shown more than {max(most):.2f} here: only "
                "more canaries, or more guesses, could contradict the claim"
            )
        for seen in self.noise:
            if not seen.passed and not seen.leaks:
                found.append(f"there is more noise than claimed: {seen}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON. A number that is not finite is null there."""
        verdict = self.verdict
        content = asdict(self) | {
            "warnings": self.all_warnings,
            "verdict": asdict(verdict) | {"name": verdict.name},
            "wiring": [
                asdict(seen)
                | {
                    "noise_multiplier": seen.noise_multiplier,
                    "interval": seen.interval,
                    "passed": seen.passed,
                }
                for seen in self.wiring
            ],
        }
        if self.quiet is not None:
            content["quiet"]["passed"] = self.quiet.passed
        if self.sampler is not None:
            content["sampler"]["passed"] = self.sampler.passed
        said: dict[str, Any] = to_plain(content)
        return said

    def found(self) -> list[tuple[str, str]]:
        """All but the claim, for a person, one finding a line: its kind, then what was found."""
        rows, verdict = list[tuple[str, str]](), self.verdict
        if self.sampler is not None:
            rows.append(("sampler", str(self.sampler)))
        rows += [("wiring", str(seen)) for seen in self.noise]
        rows += [("audit", str(bound)) for bound in self.bounds]
        if self.estimate is not None:
            rows.append(("audit", str(self.estimate)))
        rows.append(("verdict", f"{verdict.name}   ({verdict.reason})"))
        rows += [("assumes", one) for one in self.assumptions]
        return rows + [("warning", one) for one in self.all_warnings]

    def lines(self) -> list[str]:
        """The report of claim and findings for a person."""
        claim = self.claim
        epsilon = "no guarantee" if claim.epsilon is None else f"eps={claim.epsilon:.6f}"
        words = f"{epsilon} at delta={claim.delta:g}   accountant={claim.method}"
        return [f"{kind:<12}{what}" for kind, what in [("claimed", words), *self.found()]]
