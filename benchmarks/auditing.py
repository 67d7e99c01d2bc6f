"""The cost of an audit by retraining: many small models as one program, compared with loops.

    python -m benchmarks.auditing [--models 256] [--repeats 5] [--out FILE.json]

Every model learns from the same 200 images of 8x8, 50 targets among them in or out by its own
coins, in 20 Poisson batches of 50 on average. All contenders live in one process of one thread and
take turns, the other way round in every other repeat; ratios are taken within a repeat.

    one program   `train_models` as a user calls it, its width measured
    loop          the same call with a width of 1: one model after the other, the same code
    plain loop    torch by hand, without privacy: a module, torch.optim.SGD, batches drawn before
                  the clock runs
    Opacus loop   the same with GradSampleModule and DPOptimizer, wrapped once, no accountant

The first two, and the plain loop, must end with the same models to float rounding: all layers are
smooth, so that a flipped bit stays one. Opacus draws other noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedsim.core.dataset import Examples
from fedsim.core.machine import keep_memory
from fedsim.core.rng import Purpose, client_keys
from fedsim.core.trees import Tree
from fedsim.data import digits
from fedsim.models.tasks import classification
from fedsim.models.vision import softmax_regression
from privacy import dp_sgd, none
from privacy.auditing.membership.shadow_models import Game, coins, train_models
from strategies import batch_plans, fedavg
from strategies.step_rules import sgd

_ROWS, _TARGETS, _STEPS, _BATCH, _LR = 200, 50, 20, 50, 0.5
_NOISE_MULTIPLIER, _CLIP_NORM, _SEED = 1.0, 1.0, 1
_SAME = 1e-5  # the largest number of a model is about 1, and float32 has 7 digits
_TARGET = 0.25
_BUILDS = {
    "softmax regression 64-10": lambda: softmax_regression(64, 10),
    "tanh mlp 64-32-10": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)
    ),
}
_WHOLE, _LOOP = "one program", "loop"

Contender = Callable[[], Tree]
"""Trains all models; gives them, [K, ...]."""


def main() -> int:
    """Measure what the command line asks for; return 1 if the ratio or the models are off.

    The ratio that was promised is that of one program over the loop.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # for all contenders
    results, kept = {}, True
    for name in _BUILDS:
        for private in (False, True):
            title = f"{name}, {'dp_sgd' if private else 'without privacy'}"
            seconds, apart = _seconds(_contenders(name, private, given.models), given.repeats)
            print(_table(f"{given.models} x {title}", seconds, apart), flush=True)
            results[title] = {"seconds": seconds, "apart": apart}
            kept &= statistics.median(_ratios(seconds, _WHOLE, _LOOP)) < _TARGET
            kept &= max(apart.values()) <= _SAME
    if given.out:
        given.out.write_text(json.dumps(results) + "\n")
    return 0 if kept else 1


def _game(name: str, private: bool) -> Game:
    data = digits().load(None)
    mechanism = dp_sgd(noise_multiplier=_NOISE_MULTIPLIER, clip=_CLIP_NORM)
    return Game(
        data=replace(data, train=Examples(data.train.x[:_ROWS], data.train.y[:_ROWS])),
        targets=tuple(range(_TARGETS)),
        task=classification(name, _BUILDS[name]),
        strategy=fedavg(steps=sgd(_LR)),
        plan=batch_plans.poisson_batches(steps=_STEPS, sampling_prob=_BATCH / _ROWS),
        mechanism=mechanism if private else none(),
    )


def _contenders(name: str, private: bool, models: int) -> dict[str, Contender]:
    game = _game(name, private)

    def ours(width: int | None) -> Tree:
        return train_models(game, models=models, seed=_SEED, width=width, device="cpu").params

    by_hand = partial(_by_hand, game, _BUILDS[name], _batches(game, models), private)
    return {
        _WHOLE: partial(ours, None),
        _LOOP: partial(ours, 1),
        "Opacus loop" if private else "plain loop": by_hand,
    }


def _batches(game: Game, models: int) -> list[list[Tensor]]:
    """The rows of each step of each model, the same as our engine draws."""
    keys = client_keys(_SEED, Purpose.BATCHES, 1, torch.arange(models))
    drawn = game.plan.schedule(torch.full((models,), _ROWS), keys, 1, None)  # [K, s, b]
    there = torch.ones(models, _ROWS, dtype=torch.bool)
    there[:, : len(game.targets)] = coins(_SEED, models, len(game.targets))
    return [
        [rows[(rows >= 0) & there[model][rows.clamp(min=0)]] for rows in drawn[model]]
        for model in range(models)
    ]


def _by_hand(
    game: Game, build: Callable[[], nn.Module], batches: list[list[Tensor]], private: bool
) -> Tree:
    """One model after the other, with one module and one optimiser, since SGD has no state."""
    x, y = game.data.train
    start, module, criterion = game.task.init(_SEED), build().train(), nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(module.parameters(), lr=_LR)
    if private:
        module = GradSampleModule(module)
        optimiser = DPOptimizer(
            optimiser,
            noise_multiplier=_NOISE_MULTIPLIER,
            max_grad_norm=_CLIP_NORM,
            expected_batch_size=_BATCH,
        )
    weights = list(module.parameters())
    made = []
    for steps in batches:
        with torch.no_grad():
            for own, first in zip(weights, start.values(), strict=True):
                own.copy_(first)
        for rows in steps:
            optimiser.zero_grad(set_to_none=True)
            criterion(module(x[rows]), y[rows]).backward()
            optimiser.step()
        made.append([own.detach().clone() for own in weights])
    return dict(zip(start, map(torch.stack, zip(*made, strict=True)), strict=True))


def _seconds(
    contenders: dict[str, Contender], repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each contender's repeats, and how far its models are from the loop's at most."""
    seconds: dict[str, list[float]] = {who: [] for who in contenders}
    found: dict[str, Tree] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        for repeat in range(repeats + 1):
            for who in contenders if repeat % 2 else reversed(contenders):
                began = time.perf_counter()
                found[who] = contenders[who]()
                seconds[who].append(time.perf_counter() - began)
    return {who: own[1:] for who, own in seconds.items()}, {  # the first warms up
        who: max(float((found[_LOOP][key] - part).abs().max()) for key, part in tree.items())
        for who, tree in found.items()
        if who not in (_LOOP, "Opacus loop")
    }


def _ratios(seconds: dict[str, list[float]], who: str, base: str) -> list[float]:
    return [own / its for own, its in zip(seconds[who], seconds[base], strict=True)]


def _table(title: str, seconds: dict[str, list[float]], apart: dict[str, float]) -> str:
    *_, by_hand = seconds
    lines = [
        f"\n{title}",
        f"  {'contender':<14}{'seconds':>9}{'/ loop':>9}{'spread':>16}{'/ ' + by_hand:>16}"
        f"{'spread':>16}{'largest difference':>22}",
    ]
    for who, own in seconds.items():
        line = f"  {who:<14}{statistics.median(own):>9.3f}"
        for base, width in ((_LOOP, 9), (by_hand, 16)):
            ratios = _ratios(seconds, who, base)
            spread = f"{min(ratios):.3f} - {max(ratios):.3f}"
            line += f"{statistics.median(ratios):>{width}.3f}{spread:>16}"
        far = f"{apart[who]:.1e}" if who in apart else "-"
        lines.append(f"{line}{far:>22}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
