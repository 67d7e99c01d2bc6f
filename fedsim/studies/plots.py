"""The pictures of a study: how its arms end, and what their budgets buy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from fedsim.runs.compare import Run, aligned, spent
from fedsim.runs.plots import DASHES, PALETTE, figure
from fedsim.runs.statistics import Interval, interval

_MARKS = "osD^vPX"
_LARGEST = 1000.0  # an epsilon above this means no privacy


def draw_budgets(path: Path, groups: dict[str, list[Run]], metric: str, last: int) -> None:
    """How groups end over the epsilon that they spent, with 95 % intervals over seeds.

    Groups whose names differ only after the last comma are points of one line. A group without
    privacy is a dashed line; one whose epsilon is infinite or meaninglessly large, a dotted line.
    """
    scale, label = (100, "test accuracy (%)") if metric == "test_accuracy" else (1, "test loss")
    families: dict[str, list[tuple[float, Interval]]] = {}
    flat: list[tuple[str, str, float]] = []
    for name, runs in groups.items():
        ends = interval((scale * aligned(runs, metric)[1][:, -last:].mean(axis=1)).tolist())
        epsilon = spent(runs)
        if epsilon is None:
            flat.append((name, "--", ends.mean))
        elif epsilon > _LARGEST:
            flat.append((f"{name}: no guarantee", ":", ends.mean))
        else:
            families.setdefault(name.rpartition(", ")[0] or name, []).append((epsilon, ends))
    with figure(path, 7.2, 4.2) as (axes,):
        for number, (name, points) in enumerate(families.items()):
            points.sort(key=lambda point: point[0])
            axes.errorbar(
                [epsilon * 1.015 ** (number - len(families) / 2) for epsilon, _ in points],
                [ends.mean for _, ends in points],
                [ends.half or 0 for _, ends in points],
                fmt=_MARKS[number % len(_MARKS)] + DASHES[number // len(PALETTE) % 3],
                color=PALETTE[number % len(PALETTE)],
                capsize=3,
                ms=4.5,
                lw=1.3,
                label=name,
            )
        shades = iter(PALETTE[::-1] * 3)
        for name, style, height in flat:
            shade = "0.1" if style == "--" else next(shades)
            axes.axhline(height, color=shade, ls=style, lw=1.4, label=name)
        axes.set(xlabel="epsilon, by the ledger", ylabel=label, title="What a budget buys")
        known = _apart(epsilon for points in families.values() for epsilon, _ in points)
        axes.set_xscale("log")
        axes.set_xticks(known, [f"{epsilon:g}" for epsilon in known])
        axes.minorticks_off()
        if known:
            axes.set_xlim(known[0] / 1.3, known[-1] * 1.3)
        axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5))


def draw_arms(path: Path, groups: dict[str, list[Run]], metric: str, last: int) -> None:
    """The metric over rounds for each group (band: from its lowest seed to its highest), and ends.

    A run ends at the mean of its last `last` evaluations; a tick is the mean over seeds.
    """
    scale, label = (100, "test accuracy (%)") if metric == "test_accuracy" else (1, "test loss")
    with figure(path, 10, 4, columns=2) as (left, right):
        for number, (name, runs) in enumerate(groups.items()):
            colour = PALETTE[number % len(PALETTE)]
            style = DASHES[number // len(PALETTE) % len(DASHES)]
            rounds, curves = aligned(runs, metric)
            left.plot(rounds, scale * curves.mean(axis=0), style, color=colour, label=name)
            low, high = scale * curves.min(axis=0), scale * curves.max(axis=0)
            left.fill_between(rounds, low, high, color=colour, alpha=0.12, lw=0)
            ends = scale * curves[:, -last:].mean(axis=1)
            right.plot(ends, [number] * len(ends), "o", color=colour, alpha=0.6, ms=5)
            right.plot(ends.mean(), number, "|", color=colour, ms=22, mew=2)
        left.set(xlabel="round", ylabel=label, title="Mean over seeds, and their range")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.legend(fontsize=8)
        right.set_yticks(range(len(groups)), list(groups), fontsize=9)
        right.set_ylim(len(groups) - 0.5, -0.5)
        right.set(xlabel=label, title="How each seed ends")


def _apart(epsilons: Iterable[float]) -> list[float]:
    """Ticks for these, one for all that are within 5 % of each other."""
    ticks: list[float] = []
    for epsilon in sorted({round(one, 2) for one in epsilons}, reverse=True):
        if not ticks or ticks[-1] > 1.05 * epsilon:
            ticks.append(epsilon)
    return ticks[::-1]
