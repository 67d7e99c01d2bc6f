"""Pictures of a run: its curves, its split, and how accuracy is spread over clients.

Colours are from the Okabe-Ito palette, which survives colour blindness and grey print.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedsim.runs.folder import Metrics
from fedsim.training.evaluation import LABEL_MATCHED, Evaluation
from fedsim.world.population import Population

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "legend.frameon": False,
}
_SHOWN = 120  # rows of the split that can still be told apart


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Room around axes, and between two side by side, in inches."""

    left: float = 0.68
    right: float = 0.15
    bottom: float = 0.5
    top: float = 0.3
    between: float = 0.9


@contextmanager
def figure(
    path: Path, width: float, height: float, columns: int = 1, margins: Margins | None = None
) -> Iterator[list[Axes]]:
    """Axes side by side on a figure that is written to `path` (PNG, 150 dots an inch).

    margins: where nothing that is written beside the axes can be long. Left out, they are measured,
        which takes as long as drawing.
    """
    with mpl.rc_context(_STYLE):
        drawing = Figure(figsize=(width, height), dpi=150)
        drawing.set_layout_engine("constrained" if margins is None else "none")
        canvas: Any = FigureCanvasAgg(drawing)  # matplotlib gives it no types
        places = None if margins is None else _places(margins, width, height, columns)
        yield list(np.atleast_1d(drawing.subplots(1, columns, gridspec_kw=places)))
        canvas.print_png(path)  # draws once; Figure.savefig draws twice


def _places(margins: Margins, width: float, height: float, columns: int) -> dict[str, float]:
    """Margins as matplotlib has them: shares of the figure, and of the width of an axes."""
    inner = width - margins.left - margins.right - (columns - 1) * margins.between
    return {
        "left": margins.left / width,
        "right": 1 - margins.right / width,
        "bottom": margins.bottom / height,
        "top": 1 - margins.top / height,
        "wspace": margins.between * columns / inner,
    }


def draw_run(
    folder: Path, metrics: list[Metrics], evaluation: Evaluation, population: Population
) -> None:
    """The pictures of a run: curves.png, split.png, and those that it has something for.

    They are clients.png where there is an accuracy, and utility.png where there is a budget.
    """
    folder.mkdir(exist_ok=True)
    draw_curves(folder / "curves.png", metrics)
    draw_split(folder / "split.png", population.label_counts())
    if evaluation.accuracy is not None:
        draw_clients(folder / "clients.png", evaluation)
    metric = "test_loss" if evaluation.accuracy is None else "test_accuracy"
    tested = [row for row in metrics if metric in row and row.get("epsilon") is not None]
    if tested:
        draw_utility(folder / "utility.png", tested, metric)


def draw_curves(path: Path, metrics: list[Metrics]) -> None:
    """Accuracy and loss over rounds, with the band between the worst and best tenth of clients.

    Loss alone where there is no accuracy.
    """
    tested = [row for row in metrics if "test_accuracy" in row]
    if not tested:
        with figure(path, 6, 3.6, margins=Margins(left=1.0)) as (axes,):
            _draw_losses(axes, metrics)
        return
    rounds = [row["round"] for row in tested]
    with figure(path, 9, 3.6, columns=2, margins=Margins()) as (left, right):
        left.plot(rounds, _percent(row["test_accuracy"] for row in tested), color=PALETTE[0])
        spread = [row for row in tested if row.get("clients")]
        if spread:
            low = _percent(row["clients"]["deciles"][1] for row in spread)
            high = _percent(row["clients"]["deciles"][9] for row in spread)
            at = [row["round"] for row in spread]
            left.fill_between(at, low, high, color=PALETTE[0], alpha=0.15, lw=0)
            left.text(
                0.98,
                0.04,
                "band: from the worst to the best tenth of clients",
                transform=left.transAxes,
                ha="right",
                fontsize=8,
                color="0.35",
            )
        left.set(xlabel="round", ylabel="test accuracy (%)", title="Accuracy", ylim=(0, 100))
        _draw_losses(right, metrics)
        right.set_ylim(bottom=0)


def draw_utility(path: Path, rows: list[Metrics], metric: str) -> None:
    """The metric over the epsilon spent so far, from the first evaluation to the last (dot)."""
    scale, label = (100, "test accuracy (%)") if metric == "test_accuracy" else (1, "test loss")
    epsilons, values = [row["epsilon"] for row in rows], [scale * row[metric] for row in rows]
    with figure(path, 5.6, 3.8, margins=Margins(left=0.68 if scale == 100 else 1.0)) as (axes,):
        axes.plot(epsilons, values, color=PALETTE[0])
        axes.plot(epsilons[-1], values[-1], "o", color=PALETTE[0])
        axes.annotate(
            f"round {rows[-1]['round']}",
            (epsilons[-1], values[-1]),
            xytext=(-6, -14),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
        axes.set(xlabel="epsilon spent, by the ledger", ylabel=label, title="What a budget buys")
        axes.set_xlim(left=0)


DASHES = ("-", "--", ":")


def _draw_losses(axes: Axes, metrics: list[Metrics]) -> None:
    trained = [row for row in metrics if row["train_loss"] is not None]
    tested = [row for row in metrics if "test_loss" in row]
    if trained:  # under privacy it is not released
        axes.plot(
            [row["round"] for row in trained],
            [row["train_loss"] for row in trained],
            color=PALETTE[1],
            lw=1,
            alpha=0.8,
            label="train (cohort's mean, while it learns)",
        )
    at, losses = [row["round"] for row in tested], [row["test_loss"] for row in tested]
    axes.plot(at, losses, color=PALETTE[0], label="test")
    axes.set(xlabel="round", ylabel="mean loss", title="Loss")
    axes.legend()


def draw_split(path: Path, counts: NDArray[np.int64]) -> None:
    """Client by class: how many examples of each class each client has, and how many in all."""
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    picked = order[np.linspace(0, len(order) - 1, min(len(order), _SHOWN)).astype(int)]
    shown = counts[picked]
    with figure(path, 9, 4.6, columns=2, margins=Margins()) as (left, right):
        left.grid(visible=False)
        share = shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)
        strong = float(np.quantile(share[share > 0], 0.95)) if share.any() else 1.0
        image = left.imshow(
            share, aspect="auto", cmap="Blues", interpolation="nearest", vmin=0, vmax=strong
        )
        image.axes.figure.colorbar(
            image, ax=left, label="share of the client's examples", extend="max", fraction=0.19
        )
        some = f"{len(shown)} of {len(counts)} clients" if len(shown) < len(counts) else "clients"
        left.set(xlabel="class", ylabel=f"{some}, largest first", title="What each client has")
        if counts.shape[1] <= 12:
            left.set_xticks(range(counts.shape[1]))
        sizes = counts.sum(axis=1)
        top = int(sizes.max()) + 1
        width = max(1, -(-top // 40))  # whole examples a bar, about 40 bars at most
        right.hist(
            sizes, bins=[edge - 0.5 for edge in range(0, top + width, width)], color=PALETTE[0]
        )
        right.axvline(float(np.median(sizes)), color=PALETTE[1], lw=1.5)
        for axis in (right.xaxis, right.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        right.set(
            xlabel="examples of a client",
            ylabel="clients",
            title=f"How much: median {np.median(sizes):g} (line), {(sizes == 0).sum()} empty",
        )


def draw_clients(path: Path, evaluation: Evaluation) -> None:
    """Accuracy of the final model for each client, sorted, with the mean and the worst tenth."""
    known = 100 * np.sort(evaluation.personal[np.isfinite(evaluation.personal)])
    with figure(path, 7, 3.8, margins=Margins(bottom=0.8)) as (axes,):
        if len(known):
            tenth = max(1, len(known) // 10)
            place = (np.arange(len(known)) + 0.5) / len(known) * 100
            axes.fill_between(place, known, step="mid", color=PALETTE[0], alpha=0.25, lw=0)
            axes.plot(place, known, drawstyle="steps-mid", color=PALETTE[0])
            for value, label, colour in (
                (known.mean(), "mean", PALETTE[2]),
                (known[:tenth].mean(), "worst tenth", PALETTE[1]),
            ):
                axes.axhline(value, color=colour, lw=1.5, label=f"{label}: {value:.1f} %")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
        how = (
            "label-matched test set" if evaluation.source == LABEL_MATCHED else "own test examples"
        )
        axes.set(
            xlabel="clients, worst first (%)",
            ylabel=f"accuracy (%), {how}",
            title="The final model, client by client",
            xlim=(0, 100),
            ylim=(0, 100),
        )


def draw_profile(path: Path, seconds: Mapping[str, float]) -> None:
    """Where a run's time went: the share of each part, in the order of the run."""
    total = sum(seconds.values())
    shown = {name: value for name, value in seconds.items() if value >= 0.001 * total}
    with figure(path, 7, 0.9 + 0.36 * len(shown)) as (axes,):
        shares = [100 * value / total for value in shown.values()]
        bars = axes.barh(list(shown), shares, color=PALETTE[0])
        axes.bar_label(bars, [f" {value:.3g} s" for value in shown.values()], fontsize=8)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="share of the run's time (%)", title=f"Where {total:.3g} s went")
        axes.margins(x=0.12)


def _percent(values: Iterable[Any]) -> list[float]:
    return [100 * float(value) for value in values]
