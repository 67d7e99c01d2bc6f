"""A lower bound on epsilon, with all that it takes to believe it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """What an attack that succeeded so often proves of the mechanism that was run.

    Attributes:
        epsilon: the mechanism is not (smaller, delta)-DP; 0 says nothing.
        delta: the failure probability that epsilon is for.
        alpha: how often, at most, such a bound lies above the truth.
        method: how it was found.
        mu: the same as a Gaussian mechanism's mu, where one is assumed.
        hypothesis: what is taken for granted beside the game's rules; empty when nothing is.
        ceiling: what a perfect attack would have shown in this game; None where it is not known.
    """

    epsilon: float
    delta: float
    alpha: float
    method: str
    mu: float | None = None
    hypothesis: str = ""
    ceiling: float | None = None

    def __str__(self) -> str:
        """One line, for a person."""
        given = f", {self.hypothesis}" if self.hypothesis else ""
        return f"{self.method}: eps >= {self.epsilon:.2f} ({1 - self.alpha:.0%}{given})"


GAUSSIAN = "under the Gaussian hypothesis"
