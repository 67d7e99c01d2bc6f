"""An audit by training again and again: what a mechanism leaks at least, beside what it claims.

Lesson    a shadow model is a client: hundreds of trainings, with an example and without, are one
          round of local work; what tells them apart is a lower bound on epsilon
Usage     python examples/audit_by_retraining.py [--noise-multiplier 6] [--models 1024] [--seed 1]
          [--plot FILE.png]
Runtime   half a minute on two cores
Expected  DP-SGD is CONSISTENT; with a tenth of its noise, which it hides, it is VIOLATED, and the
          worst example shows it where the average one, which LiRA asks about, does not
Status    correct end to end; noise is from a seeded generator, which protects no one outside
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import fedsim
from fedsim.data import digits
from fedsim.models.vision import softmax_regression
from privacy import dp_sgd, none
from privacy.auditing.membership.inference import Inference, beside, by_lira, by_loss, claim_of
from privacy.auditing.membership.shadow_models import Game, train_models
from privacy.auditing.run.verdict import Audit
from privacy.mechanisms.clipping import flat
from privacy.mechanisms.dp_sgd import fixed_rule
from strategies import batch_plans, fedavg
from strategies.step_rules import sgd

ROWS, STEPS, DELTA, ALPHA = 200, 20, 1e-5, 0.05


def world() -> fedsim.Dataset:
    """The first digits. Number 0 lights the pixels that are dark in all others: the worst case.

    Nothing else moves the weights of those pixels, so all that hides the example is noise.
    """
    data = digits().load(None)
    x = data.train.x[:ROWS].clone()
    x[0] = x.amax(dim=0) == 0
    return replace(data, train=data.train._replace(x=x, y=data.train.y[:ROWS]))


def mechanisms(noise_multiplier: float) -> dict[str, fedsim.Mechanism[Any]]:
    """What is audited: as it should be, with a bug, and nothing."""
    right = dp_sgd(noise_multiplier=noise_multiplier)
    quiet = fixed_rule(flat(1.0), noise_multiplier / 10)
    return {
        "DP-SGD": right,
        "DP-SGD, a tenth of its noise": replace(right, example_rule=quiet),
        "without privacy": none(),
    }


def audited(
    mechanism: fedsim.Mechanism[Any], models: int, seed: int
) -> tuple[Audit, tuple[Inference, ...]]:
    """Two games: the worst example alone, then all examples at once; each at half of alpha."""
    game = Game(
        data=world(),
        targets=(0,),
        task=fedsim.classification("softmax regression", lambda: softmax_regression(64, 10)),
        strategy=fedavg(steps=sgd(1.0)),
        plan=batch_plans.poisson_batches(steps=STEPS, sampling_prob=1.0),
        mechanism=mechanism,
    )
    everyone = replace(game, targets=tuple(range(ROWS)))
    alone = train_models(game, models=models, seed=seed)
    together = train_models(everyone, models=models, seed=seed)
    found = (
        by_loss(game, alone, delta=DELTA, alpha=ALPHA / 2),
        by_lira(everyone, together, delta=DELTA, alpha=ALPHA / 2),
    )
    return beside(claim_of(alone, DELTA), *found), found


HEAD = (
    f"{'':<29}{'':>8}   {'worst example, by its loss':<44}{'all, by LiRA':<27}\n"
    f"{'':<29}{'claimed':>8}   {'AUC':<7}{'eps >=':<8}{'if Gaussian':<13}{'posterior':<16}"
    f"{'AUC':<7}{'TPR at 1%':<11}{'eps >=':<9}verdict"
)


def row(name: str, audit: Audit, found: tuple[Inference, ...]) -> str:
    """A line of the table. Bounds are the best of those that take nothing for granted."""
    loss, likely = found
    plain = [max(b.epsilon for b in one.bounds if not b.hypothesis) for one in found]
    gaussian = max(b.epsilon for b in loss.bounds if b.hypothesis)
    claim = "-" if audit.claim.epsilon is None else f"{audit.claim.epsilon:.2f}"
    low, high = (f"{end:.2f}" for end in loss.interval)
    return (
        f"{name:<29}{claim:>8}   {loss.roc.auc:<7.3f}{plain[0]:<8.2f}{gaussian:<13.2f}"
        f"{f'[{low}, {high}]':<16}{likely.roc.auc:<7.3f}{likely.roc.tpr[0.01]:<11.3f}"
        f"{plain[1]:<9.2f}{audit.verdict.name}"
    )


def draw(path: Path, results: dict[str, tuple[Audit, tuple[Inference, ...]]]) -> None:
    """The loss threshold on the worst example, and LiRA on all; with the line of the claim."""
    (claim,) = {a.claim.epsilon for a, _ in results.values() if a.claim.epsilon is not None}
    fpr = np.logspace(-4, 0, 200)
    most = np.minimum(np.exp(claim) * fpr + DELTA, 1 - np.exp(-claim) * (1 - DELTA - fpr))
    most = np.minimum(most, 1)
    picture, both = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained")
    for place, title in enumerate(("Loss of the worst example", "LiRA on all examples")):
        axes = both[place]
        for (name, (_, found)), style in zip(results.items(), ("-", "--", "-."), strict=True):
            axes.plot(*curve(found[place]), style, lw=1.8, label=name)
        label = f"at most, by the claim of eps = {claim:.2f}"
        axes.plot(fpr, most, color="black", lw=1, label=label)
        axes.fill_between(fpr, most, 1.5, color="0.85", lw=0)
        axes.plot(fpr, fpr, ":", color="0.4", lw=1, label="a coin")
        axes.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1.5), title=title)
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
    both[0].legend(fontsize=8, loc="lower right")
    picture.savefig(path, dpi=150)


def curve(found: Inference) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every threshold."""
    thresholds = np.sort(np.concatenate([found.inside, found.outside]))[::-1]
    rates = [
        1 - np.searchsorted(np.sort(scores), thresholds, "left") / len(scores)
        for scores in (found.outside, found.inside)
    ]
    return rates[0], rates[1]


def main() -> int:
    """Audit, print, draw. 0 where right and wrong were told apart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--noise-multiplier", type=float, default=6.0)
    parser.add_argument("--models", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    given = parser.parse_args()
    tried, results = mechanisms(given.noise_multiplier), {}
    print(HEAD)
    for name, mechanism in tried.items():
        results[name] = audited(mechanism, given.models, given.seed)
        print(row(name, *results[name]), flush=True)
    for name, (audit, _) in results.items():
        print(f"{name}: {audit.verdict.reason}")
    if given.plot:
        draw(given.plot, results)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
