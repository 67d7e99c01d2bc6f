"""`fedsim audit`: what a run claims, whether its own traces bear it out, and a verdict.

The verdict and the exit code are those of `privacy.auditing.run.verdict`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.auditing.run.claim import Claimed, claimed
from privacy.auditing.run.plot import draw


@dataclass(frozen=True, kw_only=True)
class Audited:
    """An audit of a run folder. claimed: None where nothing is protected."""

    folder: Path
    claimed: Claimed | None

    @property
    def verdict(self) -> str:
        """In a line."""
        if self.claimed is None:
            return "NOT PRIVATE   (nothing is protected, and nothing is claimed)"
        verdict = self.claimed.audit.verdict
        return f"{verdict.name}   ({verdict.reason})"

    @property
    def exit_code(self) -> int:
        """Of `fedsim audit`, as `privacy.auditing.run.verdict` has them."""
        return 0 if self.claimed is None else self.claimed.audit.verdict.code

    def lines(self) -> list[tuple[str, str]]:
        """What people read: (what, text)."""
        if self.claimed is None:
            return [("verdict", self.verdict)]
        run, audit = self.claimed, self.claimed.audit
        done, planned = run.rounds
        found = [
            ("mechanism", f"{run.unit}/{run.relation}  {run.sampler}  {run.mechanism}"),
            ("protects", f"each {run.unit} from {run.protects_from}"),
            ("noise by", run.noise_by),
            (
                "claimed",
                f"epsilon = {_shown(run.report.epsilon)} at delta = {audit.claim.delta:g}"
                f"   {done} of {planned} rounds   accountant {run.report.method}",
            ),
        ]
        if run.curve is not None:
            found.append(
                (
                    "",
                    f"TV <= {run.curve.tv:.6f}   kappa <= {run.curve.kappa:.6f}   "
                    f"f(0.01) >= {float(run.curve(0.01)):.6f}",
                )
            )
        others = [f"{name} {_shown(value)}" for name, value in run.others.items() if value]
        if others:
            found.append(("beside", "   ".join(others)))
        return found + audit.found()

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        base: dict[str, Any] = {"verdict": self.verdict, "exit_code": self.exit_code}
        if self.claimed is None:
            return base | {"private": False}
        run = self.claimed
        return (
            self.claimed.audit.to_dict()
            | base
            | {
                "private": True,
                "unit": run.unit,
                "relation": run.relation,
                "mechanism": run.mechanism,
                "sampled": run.sampler,
                "rounds": list(run.rounds),
                "at_least": run.report.lower,
                "others": run.others,
                "tv": None if run.curve is None else run.curve.tv,
                "kappa": None if run.curve is None else run.curve.kappa,
            }
        )

    def draw(self, path: Path) -> bool:
        """The claimed trade-off curve and all that is known of epsilon; False without a claim."""
        run = self.claimed
        if run is None or run.curve is None or not run.report.epsilon:
            return False  # no claim, or nothing done yet
        draw(path, run, run.curve, run.report.epsilon)
        return True


def audit(folder: Path, delta: float | None = None) -> Audited:
    """Audit a run folder.

    Raises:
        InputError: it is no run, or its ledger is not as the run wrote it.
        PrivacyError: delta is not in (0, 1).
    """
    return Audited(folder=folder, claimed=claimed(folder, delta))


def _shown(epsilon: float | None) -> str:
    return "none" if epsilon is None or math.isinf(epsilon) else f"{epsilon:.6g}"
