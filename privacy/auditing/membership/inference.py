"""Membership inference over many small trainings: what an attack tells, and what that proves.

Two attacks on what `retraining` trains:

    by_loss   one target, in every other training: a model has learned from it where its loss is
              low.  Trainings are independent, so its bounds take nothing for granted.
    by_lira   many targets at once, each with a score by likelihood ratios.  Scores of one model
              share that model, and all share shadow models: only one target of each model, drawn
              beforehand, with other models for shadows, is counted into a bound that proves
              something.  The area and the rates are over all pairs, and have no confidence.

A threshold is never the best one on what is then counted (see `counts`).

Source
    Yeom, Giacomelli, Fredrikson, Jha (2018), "Privacy risk in machine learning",
    arXiv:1709.01604, for the loss; Carlini et al. (2022), arXiv:2112.03570, for LiRA;
    Zanella-Beguelin et al. (2023), arXiv:2206.05199, for the posterior.

Shapes: K models, m targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from privacy import validate
from privacy.auditing.bounds import bayes
from privacy.auditing.bounds import clopper_pearson as counts
from privacy.auditing.bounds.clopper_pearson import Counts
from privacy.auditing.bounds.lower_bound import LowerBound
from privacy.auditing.membership import lira
from privacy.auditing.membership.shadow_models import Game, Models, confidences, losses
from privacy.auditing.run.claim import settled
from privacy.auditing.run.verdict import Audit, Claim
from privacy.mechanisms.readers import ledger_account
from privacy.validate import Array
from privacy.validate import delta as check_delta

CREDIBILITY = 0.95  # of posterior intervals
SHARED = "taking scores of one model to be independent"
LOSSES = (1.0, 2.0, 4.0)  # thresholds that were fixed before anything was trained
ASSUMED = (
    "the attacker sees the last model alone, and knows all other examples",
    "the number of examples is public",
)


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What an attack showed.

    Attributes:
        attack: in words. models: how many were trained.
        roc: over all scores; no confidence.
        counts: of scores that are independent, at a threshold that they did not choose.
        interval: where epsilon lies by those counts, with CREDIBILITY; it is no bound.
        bounds: lower bounds on epsilon; those without a hypothesis hold together with their
            alphas added up.
        inside, outside: all scores of targets that were in, and that were out.
    """

    attack: str
    models: int
    roc: lira.Roc
    counts: Counts
    interval: tuple[float, float]
    bounds: tuple[LowerBound, ...]
    inside: Array = field(repr=False, compare=False)
    outside: Array = field(repr=False, compare=False)

    def lines(self) -> list[str]:
        """For a person: what was found beside the bounds."""
        low, high = self.interval
        rates = ", ".join(f"{tpr:.3f} at {rate:g}" for rate, tpr in self.roc.tpr.items())
        return [
            f"{self.attack}, {self.models} models: AUC {self.roc.auc:.3f}, TPR {rates}",
            f"posterior eps in [{low:.2f}, {high:.2f}] ({CREDIBILITY:.0%} credible, no bound)",
        ]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "attack": self.attack,
            "models": self.models,
            "auc": self.roc.auc,
            "tpr": {str(rate): tpr for rate, tpr in self.roc.tpr.items()},
            "true_positives": self.counts.true_positives,
            "false_negatives": self.counts.false_negatives,
            "false_positives": self.counts.false_positives,
            "true_negatives": self.counts.true_negatives,
            "posterior": self.interval,
            "credibility": CREDIBILITY,
        }


def by_loss(
    game: Game,
    models: Models,
    *,
    delta: float,
    alpha: float = 0.05,
    target: int = 0,
    thresholds: Sequence[float] = LOSSES,
) -> Inference:
    """One target is said to have been in where a model's loss on it is low.

    Args:
        game: what was trained.
        models: what came of it.
        delta: that of the claim.
        alpha: how often any of the bounds may be wrong; they share it.
        target: which of the game's targets; the worst one that can be thought of.
        thresholds: losses, fixed before anything was trained.

    Raises:
        PrivacyError: there is no such target, it was in or out fewer than twice, a loss is not
            finite, or a number is out of its range.

    Guarantees:
        All bounds together exceed the truth in at most alpha of all audits; the one under the
        Gaussian hypothesis where that is true.
    """
    validate.whole("by_loss", "target", target)
    if target >= len(game.targets):
        rule, remedy = f"below {len(game.targets)}", "Count the game's targets from 0."
        raise validate.refusal("by_loss", "target", rule, target, remedy)
    validate.level("by_loss", alpha)
    scores = -losses(game, models)[:, target]
    member = models.included[:, target].numpy()
    inside, outside = scores[member], scores[~member]
    share = alpha / 3
    counted = counts.at_split(inside, outside, delta=delta, alpha=share)
    central = counts.at_split(inside, outside, delta=delta, alpha=share, gaussian=True)
    limits = [-threshold for threshold in thresholds]
    return _inference(
        f"loss of example {game.targets[target]}",
        models,
        counted,
        (
            counts.split_lower(inside, outside, delta=delta, alpha=share),
            counts.bonferroni_lower(inside, outside, limits, delta=delta, alpha=share),
            replace(
                counts.gaussian_lower(central, delta=delta, alpha=share),
                method="counts, threshold from the other half",
            ),
        ),
        inside,
        outside,
    )


def by_lira(
    game: Game, models: Models, *, delta: float, alpha: float = 0.05, rate: float = 0.05
) -> Inference:
    """Every target is scored in every model by likelihood ratios.

    For the bound that proves something, the first half of the models are shadows of the other half,
    in each of which one target is asked.  The threshold is from the shadows' scores alone.

    Args:
        game: what was trained; of a classification.
        models: what came of it.
        delta: that of the claim.
        alpha: how often the bound may be wrong.
        rate: the false positive rate at which is counted, fixed before anything was trained.

    Raises:
        PrivacyError: there are too few models, or a number is out of its range.

    Guarantees:
        The bound without a hypothesis exceeds the truth in at most alpha of all audits.
    """
    phi, member = confidences(game, models), models.included.numpy()
    scores = lira.leave_one_out(phi, member)
    inside, outside = scores[member], scores[~member]
    together = counts.lower(counts.at_rate(inside, outside, rate), delta=delta, alpha=alpha)
    half, asked = len(phi) // 2, models.asked.numpy()[len(phi) // 2 :]
    attacked = np.arange(half, len(phi))
    shadows = lira.leave_one_out(phi[:half], member[:half])
    threshold = float(np.quantile(shadows[~member[:half]], 1 - rate))
    alone = lira.scores(phi[attacked, asked], phi[:half, asked], member[:half, asked])
    was_in = member[attacked, asked]
    counted = counts.at_threshold(alone[was_in], alone[~was_in], threshold)
    words = f"at a false positive rate of {rate:g}"
    return _inference(
        f"LiRA on {len(game.targets)} examples",
        models,
        counted,
        (
            replace(
                counts.lower(counted, delta=delta, alpha=alpha),
                method=f"counts {words}, one example a model",
            ),
            replace(together, method=f"counts {words}, all examples", hypothesis=SHARED),
        ),
        inside,
        outside,
    )


def claim_of(models: Models, delta: float) -> Claim:
    """What the accountant says of one of these trainings, from what it is charged alone.

    Raises:
        PrivacyError: delta is not in (0, 1).
    """
    check_delta("claim_of", delta)
    if not models.entries:
        return Claim(epsilon=None, delta=delta, method="none", reason="nothing is protected")
    claim, _, _ = settled(ledger_account(delta).charge(models.entries))
    return claim


def beside(claim: Claim, *found: Inference) -> Audit:
    """What attacks showed, beside the claim: its verdict is that of `fedsim audit`.

    The verdict's alpha is what the bounds' come to together: give each attack its share.
    """
    named = tuple(
        replace(bound, method=f"{one.attack}, {bound.method}")
        for one in found
        for bound in one.bounds
    )
    return Audit(
        claim=claim,
        bounds=named,
        assumptions=ASSUMED,
        details={"inferences": [one.as_dict() for one in found]},
    )


def _inference(
    attack: str,
    models: Models,
    counted: Counts,
    bounds: tuple[LowerBound, ...],
    inside: Array,
    outside: Array,
) -> Inference:
    return Inference(
        attack=attack,
        models=len(models.included),
        roc=lira.roc(inside, outside),
        counts=counted,
        interval=bayes.credible_interval(counted, delta=bounds[0].delta, credibility=CREDIBILITY),
        bounds=bounds,
        inside=inside,
        outside=outside,
    )
