"""`fedsim audit`: what a run claims, whether its own traces bear it out, and a verdict.

Exit codes: 0 nothing speaks against the claim (or nothing is claimed); 4 the claim is not borne out
by the run's own traces, or there is no guarantee to begin with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.plots import PALETTE, figure
from privacy.auditing.claim import Claim, claimed

ASSUMED = (
    "numbers of clients and examples are public; noise is from a seeded generator, which protects "
    "nobody outside of a simulation; all rounds' models are released; nobody colludes with the "
    "server"
)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """An audit of a run folder. claim: None where nobody is protected."""

    folder: Path
    claim: Claim | None

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.claim is None:
            return "NOT PRIVATE: nobody is protected, and nothing is claimed"
        if not self.claim.report.guarantee:
            return "NO GUARANTEE: nothing that is proved can be claimed for this run"
        if not self.claim.supported:
            failed = ", ".join(c.name for c in self.claim.checks if c.passed is False)
            return f"UNSUPPORTED: the run's own traces do not fit its claim ({failed})"
        return "CLAIM ONLY: the run's traces fit its claim; it had no canaries that would test it"

    @property
    def exit_code(self) -> int:
        """0 where nothing speaks against the claim, 4 where it is not supported."""
        return 0 if self.claim is None or self.claim.supported else 4

    def lines(self) -> list[tuple[str, str]]:
        """What people read: (what, text)."""
        if self.claim is None:
            return [("verdict", self.verdict)]
        claim, report = self.claim, self.claim.report
        done, planned = claim.rounds
        found = [
            ("mechanism", f"{claim.unit}/{claim.relation}  {claim.sampler}  {claim.mechanism}"),
            ("protects", f"each {claim.unit} from {claim.protects_from}"),
            ("noise by", claim.noise_by),
            ("claimed", f"epsilon = {_shown(report.epsilon)} at delta = {claim.delta:g}   "
                        f"{done} of {planned} rounds   accountant {report.method}"),
        ]  # fmt: skip
        if claim.curve is not None:
            found.append(
                ("", f"TV <= {claim.curve.tv:.6f}   kappa <= {claim.curve.kappa:.6f}   "
                     f"f(0.01) >= {float(claim.curve(0.01)):.6f}")
            )  # fmt: skip
        others = [f"{name} {_shown(value)}" for name, value in claim.others.items() if value]
        if others:
            found.append(("beside", "   ".join(others)))
        for check in claim.checks:
            outcome = {True: "OK", False: "FAILED", None: "-"}[check.passed]
            found.append((check.name, f"{outcome}   {check.found}"))
        found.append(("verdict", self.verdict))
        found.append(("assumed", ASSUMED))
        found += [("warning", text) for text in claim.warnings]
        return found

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        base: dict[str, Any] = {"verdict": self.verdict, "exit_code": self.exit_code}
        if self.claim is None:
            return base | {"private": False}
        claim = self.claim
        curve = claim.curve
        return base | {
            "private": True,
            "unit": claim.unit,
            "relation": claim.relation,
            "mechanism": claim.mechanism,
            "sampler": claim.sampler,
            "delta": claim.delta,
            "rounds": list(claim.rounds),
            "epsilon": claim.report.epsilon,
            "at_least": claim.report.lower,
            "accountant": claim.report.method,
            "others": claim.others,
            "tv": None if curve is None else curve.tv,
            "kappa": None if curve is None else curve.kappa,
            "checks": [vars(check) for check in claim.checks],
            "warnings": list(claim.warnings),
            "assumed": ASSUMED,
        }

    def draw(self, path: Path) -> bool:
        """The claimed trade-off curve, and epsilon by every accountant; False without a claim."""
        if self.claim is None or self.claim.curve is None or self.claim.report.epsilon is None:
            return False
        claim, curve = self.claim, self.claim.curve
        epsilon = self.claim.report.epsilon
        with figure(path, 9.6, 4.2, columns=2) as (left, right):
            alpha = np.linspace(0, 1, 401)
            left.plot(alpha, 1 - alpha, color="0.5", lw=1, label="nothing released")
            left.plot(alpha, curve(alpha), color=PALETTE[0], label="this run, by its ledger")
            bound = np.maximum(1 - claim.delta - math.exp(min(epsilon, 700)) * alpha, 0)
            other = np.maximum(math.exp(-epsilon) * (1 - claim.delta - alpha), 0)
            line = np.maximum(bound, other)
            left.plot(alpha, line, "--", color=PALETTE[1], label=f"epsilon {epsilon:.3g} alone")
            left.set(
                xlabel="false positive rate of an attack", ylabel="false negative rate, at least",
                title="What any attack is left with", xlim=(0, 1), ylim=(0, 1),
            )  # fmt: skip
            left.legend(fontsize=8)
            names = {f"{claim.report.method} (claimed)": epsilon, **claim.others}
            shown = {name: value for name, value in names.items() if value}
            places = range(len(shown))
            right.hlines(places, 0, list(shown.values()), color="0.7", lw=1)
            for place, (name, value) in enumerate(shown.items()):
                hollow = "not a guarantee" in name
                right.plot(
                    value, place, "o", color=PALETTE[0], ms=7,
                    mfc="white" if hollow else PALETTE[0],
                )  # fmt: skip
                right.annotate(
                    f"{value:.4g}", (value, place), xytext=(0, 8), textcoords="offset points",
                    ha="center", fontsize=8,
                )  # fmt: skip
            labels = [name.replace(" (", "\n(") for name in shown]
            right.set_yticks(list(places), labels, fontsize=8)
            right.set_ylim(len(shown) - 0.4, -0.6)
            right.set_xlim(0, 1.15 * max(shown.values()))
            right.set(xlabel=f"epsilon at delta {claim.delta:g}", title="By every accountant")
        return True


def audit(folder: Path, delta: float | None = None) -> Audit:
    """Audit a run folder.

    Raises:
        InputError: it is no run, or its ledger is not as the run wrote it.
        PrivacyError: delta is not in (0, 1).
    """
    return Audit(folder=folder, claim=claimed(folder, delta))


def _shown(epsilon: float | None) -> str:
    return "none" if epsilon is None or math.isinf(epsilon) else f"{epsilon:.6g}"
