"""The picture of an audit: the errors any attack must make, and epsilon by every accountant."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from fedsim.runs.plots import PALETTE, figure
from privacy.accounting import TradeOff
from privacy.auditing.bounds.clopper_pearson import Counts, rate_interval
from privacy.auditing.run.claim import Claimed
from privacy.validate import Array

_WIDE = 20.0  # a ratio of epsilons from which on only a logarithmic axis shows both


def draw(path: Path, run: Claimed, curve: TradeOff, epsilon: float) -> None:
    """Left the claimed trade-off curve and the canaries' attack; right epsilon, bound by bound."""
    with figure(path, 10.4, 4.4, columns=2) as (left, right):
        alpha = np.linspace(0, 1, 401)
        left.plot(alpha, 1 - alpha, ":", color="0.35", lw=1.2, label="nothing released")
        left.plot(alpha, curve(alpha), color=PALETTE[0], lw=2, label="this run, by its ledger")
        line = _of_epsilon(alpha, epsilon, run.audit.claim.delta)
        left.plot(alpha, line, "--", color=PALETTE[1], label=f"epsilon {epsilon:.3g} alone")
        if run.audit.counts is not None:
            _point(left, run.audit.counts)
        left.set(
            xlabel="false positive rate of an attack",
            ylabel="false negative rate",
            title="What any attack is left with",
            xlim=(-0.03, 1.01),
            ylim=(-0.03, 1.01),
        )
        left.legend(fontsize=8, loc="upper right")
        _epsilons(right, run, epsilon)


def _of_epsilon(alpha: Array, epsilon: float, delta: float) -> Array:
    steep = np.maximum(1 - delta - math.exp(min(epsilon, 700)) * alpha, 0)
    flat = np.maximum(math.exp(-epsilon) * (1 - delta - alpha), 0)
    return np.asarray(np.maximum(steep, flat))


def _point(axes: Axes, counts: Counts) -> None:
    """Where the canaries' attack was, with 95 % intervals."""
    accused, missed = counts.false_positives, counts.false_negatives
    x, y = accused / counts.negatives, missed / counts.positives
    low, high = rate_interval(accused, counts.negatives, 0.05)
    down, up = rate_interval(missed, counts.positives, 0.05)
    axes.errorbar(
        x,
        y,
        xerr=[[x - low], [high - x]],
        yerr=[[y - down], [up - y]],
        fmt="s",
        color="black",
        ms=5,
        capsize=3,
        lw=1.2,
        zorder=5,
        clip_on=False,
        label=f"canaries ({counts.positives} in, {counts.negatives} out), 95 %",
    )


def _epsilons(axes: Axes, run: Claimed, epsilon: float) -> None:
    """A row for each: what is claimed, what others say, what canaries show."""
    rows = _rows(run, epsilon)
    largest = max(value for _, value, _, _, _ in rows)
    least = min(epsilon, largest)
    wide = largest > _WIDE * least
    if wide:
        axes.set_xscale("symlog", linthresh=least, linscale=0.7)
    for place, (_, value, marker, filled, text) in enumerate(rows):
        axes.hlines(place, 0, value, color="0.7", lw=1)
        axes.plot(
            value,
            place,
            marker,
            color=PALETTE[0],
            ms=7,
            clip_on=False,
            zorder=3,
            mfc=PALETTE[0] if filled else "white",
        )
        axes.annotate(
            text,
            (value, place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="left" if value < 0.05 * largest and not wide else "center",
            fontsize=8,
            bbox={"fc": "white", "ec": "none", "pad": 0.6},
            zorder=2,
        )
    axes.axvline(epsilon, color=PALETTE[1], ls="--", lw=1, zorder=1)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlim(0, (3 if wide else 1.15) * largest)
    delta = run.audit.claim.delta
    title = "By every accountant" + (", and by canaries" if run.audit.bounds else "")
    axes.set(xlabel=f"epsilon at delta {delta:g} (dashed: claimed)", title=title)


def _rows(run: Claimed, epsilon: float) -> list[tuple[str, float, str, bool, str]]:
    """Label, value, marker, whether it is filled, and text of each row."""
    rows: list[tuple[str, float, str, bool, str]] = []
    named = {f"{run.report.method} (claimed)": epsilon, **run.others}
    for name, value in named.items():
        if value:
            filled = "not a guarantee" not in name
            rows.append((name.replace(" (", "\n("), value, "o", filled, f"{value:.4g}"))
    for bound in run.audit.bounds:
        known = bound in run.audit.proofs
        given = f", {'as' if known else 'if'} Gaussian" if bound.hypothesis else ""
        words = f"canaries, one run\n(at least, {1 - bound.alpha:.0%}{given})"
        rows.append((words, bound.epsilon, ">", known, f">= {bound.epsilon:.3g}"))
    if run.audit.estimate is not None:
        value = run.audit.estimate.epsilon
        rows.append(("canaries, cosines\n(no confidence)", value, "D", False, f"{value:.3g}"))
    return rows
