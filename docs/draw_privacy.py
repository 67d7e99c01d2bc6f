"""The accounting, without a run: the pictures of docs/guides/privacy.md and the numbers in them.

Lesson    what is released is a list of events; an accountant turns it into epsilon or a curve
Usage     python docs/draw_privacy.py docs/images
Runtime   a minute on two cores
Expected  four pictures in the folder; without one they are drawn and thrown away
Status    correct end to end; nothing is drawn at random
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from fedsim.runs.plots import PALETTE, figure
from privacy.accounting import Gaussian, PoissonGaussian, Shuffled, account, tradeoff
from privacy.accounting.fdp.from_pairs import approximate
from privacy.accounting.fdp.tradeoff import TradeOff
from privacy.matrix_factorization import (
    Factorization,
    MinSeparation,
    banded,
    blt_optimised,
    independent,
    nu_ftrl,
)

STYLES = ("-", "--", "-.", ":")


def draw_tradeoff(path: Path) -> None:
    """What each guarantee leaves to the best attack there is."""
    sampled = [PoissonGaussian(sampling_prob=0.01, noise_multiplier=1.0, count=1000)]
    epsilon = account(sampled, delta=1e-5).epsilon
    assert epsilon is not None
    curves: list[tuple[str, TradeOff]] = [
        ("nothing released", tradeoff([])),
        ("1,000 Poisson steps, q = 0.01, z = 1", tradeoff(sampled)),
        (f"({epsilon:.2f}, 1e-5) and nothing more", approximate(epsilon, 1e-5)),
        ("one Gaussian, mu = 1", tradeoff([Gaussian(mu=1.0)])),
    ]
    alpha = np.linspace(0, 1, 401)
    with figure(path, 5.6, 4.4) as (axes,):
        for (name, f), style, colour in zip(curves, STYLES, ("0.5", *PALETTE), strict=False):
            axes.plot(alpha, f(alpha), style, color=colour, label=name)
            print(f"{name}: at most {f.tv:.3f} above a guess, f(0.05) = {float(f(0.05)):.3f}")
        axes.set(
            xlabel="false positive rate of an attack",
            ylabel="its false negative rate, at least",
            title="Trade-off curves",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
        axes.legend(fontsize=8)


def draw_samplers(path: Path) -> None:
    """One epoch, every example once (Poisson: on average), over the number of batches."""
    batches, delta = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000], 1e-6
    with figure(path, 9, 3.8, columns=2) as both:
        for axes, z in zip(both, (1.0, 0.5), strict=True):
            drawn = [
                account([PoissonGaussian(sampling_prob=1 / b, noise_multiplier=z, count=b)], delta)
                for b in batches
            ]
            dealt = [
                account([Shuffled(noise_multiplier=z, batches=b, epochs=1)], delta) for b in batches
            ]
            poisson = [report.epsilon or 0.0 for report in drawn]
            claimed = [report.epsilon or 0.0 for report in dealt]
            least = [report.lower or 0.0 for report in dealt]
            axes.plot(batches, claimed, "-", color=PALETTE[1], label="no amplification (claimed)")
            axes.plot(batches, least, "o:", ms=3, color=PALETTE[6], label="shuffled, at least")
            axes.plot(batches, poisson, "s--", ms=3, color=PALETTE[0], label="Poisson")
            axes.set(
                xscale="log",
                xlabel="batches in the epoch",
                ylabel="epsilon at delta 1e-6",
                title=f"noise multiplier {z:g}",
                ylim=(0, None),
            )
            print(f"noise {z:g}: Poisson {poisson[0]:.3f} to {poisson[-1]:.3f}, {claimed[0]:.3f}")
        both[1].legend(fontsize=8)


def draw_correlated(path: Path) -> None:
    """How much noise is in the sum of all updates so far, at the same mu."""
    rounds, schema = 100, MinSeparation(separation=10, most=10)
    families: dict[str, Factorization] = {
        "independent": independent(rounds=rounds),
        "nu-DP-FTRL, nu = 0.01": nu_ftrl(0.01, rounds=rounds),
        "BLT, 2 buffers": blt_optimised(2, rounds=rounds, separation=10, participations=10),
        "BandMF, 10 bands": banded(10, rounds=rounds, separation=10, participations=10),
    }
    with figure(path, 5.6, 3.8) as (axes,):
        for (name, made), style, colour in zip(families.items(), STYLES, PALETTE, strict=False):
            # mu = sensitivity / noise multiplier: at mu = 1 the multiplier is the sensitivity.
            noise = made.sensitivity(schema).value
            std = noise * np.sqrt(made.errors())
            axes.plot(np.arange(1, rounds + 1), std, style, color=colour, label=name)
            print(f"{name}: multiplier {noise:.3f}, in round 1 {std[0]:.2f}, 100 {std[-1]:.2f}")
        axes.set(
            xlabel="round",
            ylabel="standard deviation, in clip norms",
            ylim=(0, None),
            title="Noise in the sum of all rounds so far, at mu = 1",
        )
        axes.legend(fontsize=8)


def draw_who(path: Path) -> None:
    """Where noise enters, and who sees what before it does."""
    panels = {
        "Examples\ndp_sgd and its kin": ("clip, noise\nevery step", "model"),
        "Clients, a trusted server\nclient_dp, correlated_noise": ("local steps", "clip, noise"),
        "Clients, no trusted party\nlocal_dp": ("local steps,\nclip, noise", "model"),
    }
    with figure(path, 11, 4.2, columns=3) as columns:
        for axes, (title, (client, server)) in zip(columns, panels.items(), strict=True):
            _draw_panel(axes, title, client, server)


def _draw_panel(axes: Axes, title: str, client: str, server: str) -> None:
    trusted = "noise" in server
    axes.set(xlim=(0, 10), ylim=(0, 10), title=title)
    axes.axis("off")
    _box(axes, 0.1, 1.5, 6.9 if trusted else 3.6, 8.0, "", grey=True)
    for y in (7.1, 4.5, 1.9):
        _box(axes, 0.3, y, 3.2, 2.1, f"client\n{client}")
        _arrow(axes, (3.5, y + 1.05), (4.5, 5.5), private=not trusted)
    _box(axes, 4.5, 4.3, 2.3, 2.4, f"server\n{server}")
    _box(axes, 7.7, 4.3, 2.25, 2.4, "clients,\nusers of\nthe models")
    _arrow(axes, (6.8, 5.5), (7.7, 5.5), private=True)
    if trusted:
        note = "grey: must be trusted\nsolid arrows: protected, dashed: not"
        axes.text(5, 0.6, note, ha="center", fontsize=9)


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, grey: bool = False
) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.25",
            fc="0.85" if grey else "white",
            ec="0.6" if grey else "black",
            zorder=1 if grey else 2,
        )
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8, zorder=4)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], *, private: bool
) -> None:
    axes.annotate(
        "",
        end,
        start,
        zorder=3,
        arrowprops={
            "arrowstyle": "-|>",
            "lw": 1.6,
            "ls": "-" if private else "--",
            "color": PALETTE[0] if private else PALETTE[1],
        },
    )


def main(folder: Path) -> None:
    """All pictures into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_who(folder / "privacy_who.png")
    draw_tradeoff(folder / "privacy_tradeoff.png")
    draw_samplers(folder / "privacy_samplers.png")
    draw_correlated(folder / "privacy_correlated.png")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with TemporaryDirectory() as temporary:
            main(Path(temporary))
