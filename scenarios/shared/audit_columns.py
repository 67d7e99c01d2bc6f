"""Audits of a study's runs: what each says in a table, and claims beside measurements in a picture.

For `reads` and `draws` of a study whose runs have canaries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fedsim.runs.plots import PALETTE, figure
from fedsim.studies.columns import Answer
from privacy.auditing.run.report import audit

CLAIMED, SHOWN, GAUSSIAN, COSINE = "claimed", "shown", "if Gaussian", "cosine"
_MARKS = {
    CLAIMED: ("|", "claimed, by the ledger"),
    SHOWN: (">", "shown by one run's guesses, 95 %"),
    GAUSSIAN: ("D", "the same, if the noise is Gaussian"),
    COSINE: ("o", "cosine estimate, no confidence"),
}
_LARGEST = 1000.0  # an epsilon above this is a number, but no privacy


def answers(folder: Path) -> dict[str, Answer]:
    """What an audit of a run says, as columns.

    verdict: in a word. claimed: epsilon of the ledger. shown: the lower bound without assumptions.
    if Gaussian: the same where the noise is assumed to be Gaussian. cosine: the one-shot estimate.
    noise: its measured size along canary directions, over what is claimed. shift: how far a canary
    stood out of the noise, over how far it may.

    Raises:
        InputError: it is no run, or its ledger is not as the run wrote it.
    """
    found = audit(folder)
    if found.claimed is None:
        return {"verdict": "not private"}
    judged = found.claimed.audit
    proofs = [bound.epsilon for bound in judged.bounds if not bound.hypothesis]
    assumed = [bound.epsilon for bound in judged.bounds if bound.hypothesis]
    said: dict[str, Answer] = {
        "verdict": judged.verdict.name.lower(),
        CLAIMED: judged.claim.epsilon,
        SHOWN: max(proofs, default=None),
        GAUSSIAN: max(assumed, default=None),
    }
    if judged.estimate is not None:
        said[COSINE] = judged.estimate.epsilon
    if judged.quiet is not None:
        said["noise"] = judged.quiet.noise_multiplier / judged.quiet.claimed
    for seen in judged.wiring:
        said["shift"] = seen.mu * seen.claimed
    return said


def draw(out: Path, read: Mapping[str, Mapping[int, Mapping[str, Answer]]]) -> None:
    """Claimed and measured epsilon of every arm, means over seeds, as `audit.png`."""
    arms = {name: list(runs.values()) for name, runs in read.items()}
    with figure(out / "audit.png", 7.6, 1.4 + 0.34 * len(arms)) as (axes,):
        for place, runs in enumerate(arms.values()):
            _draw_arm(
                axes, place, {name: _mean([run.get(name) for run in runs]) for name in _MARKS}
            )
        axes.set_yticks(range(len(arms)), list(arms), fontsize=8.5)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set(xlabel="epsilon", title="What is claimed, and what can be shown", xlim=(0, None))
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        below = -0.55 / (0.35 * len(arms) + 0.2) - 0.02
        axes.legend(
            once.values(),
            once.keys(),
            fontsize=8,
            ncol=2,
            loc="upper center",
            bbox_to_anchor=(0.5, below),
        )


def _draw_arm(axes: Axes, place: int, values: Mapping[str, float | None]) -> None:
    """One arm's marks on its line, joined; without a claim it says so."""
    known = [value for value in values.values() if value is not None]
    if len(known) > 1:
        axes.hlines(place, min(known), max(known), color="0.8", lw=1, zorder=1)
    for colour, (name, (mark, label)) in zip(PALETTE, _MARKS.items(), strict=False):
        line = mark == "|"
        style: dict[str, Any] = {"ms": 14 if line else 7, "mew": 2.5 if line else 1.3}
        style["mfc"] = colour if name == SHOWN else "white"
        value = values[name]
        if value is not None:
            axes.plot(
                value, place, mark, color=colour, label=label, clip_on=False, zorder=3, **style
            )
    if values[CLAIMED] is None:
        axes.annotate(
            "no guarantee",
            (1, place),
            xycoords=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=8,
            color="0.3",
        )


def _mean(values: list[Answer]) -> float | None:
    numbers = [
        one
        for one in values
        if isinstance(one, float | int) and math.isfinite(one) and one <= _LARGEST
    ]
    return float(np.mean(numbers)) if numbers else None
