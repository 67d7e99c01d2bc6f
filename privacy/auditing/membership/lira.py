"""Membership inference by likelihood ratios (LiRA): scores of examples, from shadow models.

The confidence p of a model in an example's own class is scaled to phi = ln(p / (1 - p)), which is
nearly Gaussian over models.  Shadow models with the example and without give a mean and a variance
each; the score is the logarithm of the ratio of the two densities at the target model's phi.

On examples of the population it audits the average example, where privacy is of the worst one; what
it finds is a lower bound all the same, once `counts` has been through it.

Source
    Carlini, Chien, Nasr, Song, Terzis, Tramer (2022), "Membership inference attacks from first
    principles", arXiv:2112.03570.

Shapes: K shadow models, n examples, c classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, ndtr

from privacy import validate
from privacy.validate import Array

Members = NDArray[np.bool_]
FEW = 64  # models, below which an example's own variance is too rough


def confidence(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Phi = ln(p_y / (1 - p_y)) of the own class, from logits or log-probabilities [..., c]; [...].

    Computed as log p_y - log(sum of the others), which does not end at p = 1.

    Raises:
        PrivacyError: there are fewer than two classes, or labels do not fit.
    """
    scores, own = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    classes = scores.shape[-1] if scores.ndim else 0
    if classes < 2:
        raise validate.refusal("confidence", "classes", "at least 2", classes, "Pass all logits.")
    if own.shape != scores.shape[:-1] or (own.size and not 0 <= own.min() <= own.max() < classes):
        rule, remedy = f"a class in [0, {classes}) for each example", "Check the labels."
        raise validate.refusal("confidence", "labels", rule, own.shape, remedy)
    mine = np.arange(classes) == own[..., None]
    others = logsumexp(np.where(mine, -np.inf, scores), axis=-1)
    return np.asarray(scores[mine].reshape(own.shape) - others)


def scores(target: ArrayLike, shadows: ArrayLike, included: ArrayLike) -> Array:
    """Ln N(phi; with the example) - ln N(phi; without), for each example; [n].

    Args:
        target: phi of the audited model [n].
        shadows: phi of every shadow model [K, n].
        included: which example each of them has learned from [K, n], bool.

    Raises:
        PrivacyError: an example is in no model or in all (for fewer than 64 models; from then on
            it must be in two and out of two), shapes do not fit, or a number is not finite.

    Guarantees:
        With fewer than 64 models all examples share their two variances.
    """
    phi = validate.finite("scores", "target", target)
    table, member = _tables("scores", phi, shadows, included)
    return _log_density(phi, table, member) - _log_density(phi, table, ~member)


def offline_scores(target: ArrayLike, shadows: ArrayLike, included: ArrayLike) -> Array:
    """P(Z < (phi - mean without) / std without): only models without the example are asked; [n].

    Args, Raises: as `scores`, but that an example need not be in any model.
    """
    phi = validate.finite("offline_scores", "target", target)
    table, member = _tables("offline_scores", phi, shadows, included)
    mean, std = _fitted(table, ~member)
    return np.asarray(ndtr((phi - mean) / std))


def leave_one_out(confidences: ArrayLike, included: ArrayLike) -> Array:
    """The `scores` of each model, with all the others as its shadow models; [K, n].

    Scores of one model share what it is, and those of all models share their shadows: none of them
    is independent of another, and a bound that counts them together takes that for granted.

    Args:
        confidences: phi of every model [K, n].
        included: which example each of them has learned from [K, n], bool.

    Raises:
        PrivacyError: as in `scores`, of any model.

    Guarantees:
        Row k is `scores` of model k with the other K - 1, to rounding.
    """
    phi = np.atleast_2d(np.asarray(confidences, dtype=np.float64))
    table, member = _tables("leave_one_out", phi[0], phi, included)
    return _density_by_others(table, member) - _density_by_others(table, ~member)


@dataclass(frozen=True, kw_only=True)
class Roc:
    """How well scores tell members. tpr: false positive rate -> true positive rate at it, at most.

    For a bound on epsilon, count at a rate fixed in advance: `counts.at_rate`.
    """

    auc: float
    tpr: dict[float, float]


def roc(inside: ArrayLike, outside: ArrayLike, rates: Sequence[float] = (1e-3, 1e-2)) -> Roc:
    """The area under the curve, and the true positive rates at small false positive rates.

    Raises:
        PrivacyError: a score is not finite, or a rate is outside [0, 1].

    Guarantees:
        Equal scores count half in the area.
    """
    found = validate.finite("roc", "inside", inside)
    other = validate.finite("roc", "outside", outside)
    rising, n = np.sort(other), len(other)
    beaten = [np.searchsorted(rising, found, side) for side in ("left", "right")]
    auc = float(np.mean(beaten)) / n  # of equal ones, one side counts all and the other none
    tpr = {}
    falling = np.append(rising[::-1], -np.inf)
    for rate in rates:
        if not (validate.is_number(rate) and 0 <= rate <= 1):
            raise validate.refusal("roc", "rate", "in [0, 1]", rate, "Use 0.01.")
        threshold = falling[math.floor(rate * n + 1e-9)]  # above it are at most rate n of them
        tpr[float(rate)] = float((found > threshold).mean())
    return Roc(auc=auc, tpr=tpr)


def _tables(who: str, phi: Array, shadows: ArrayLike, included: ArrayLike) -> tuple[Array, Members]:
    table, member = np.asarray(shadows, dtype=np.float64), np.asarray(included, dtype=bool)
    if table.ndim != 2 or table.shape[1] != len(phi) or table.shape != member.shape:
        rule, remedy = f"[models, {len(phi)}], as included", "Pass one row for each model."
        raise validate.refusal(who, "shadows", rule, (table.shape, member.shape), remedy)
    if not np.isfinite(table).all():
        raise validate.refusal(who, "shadows", "finite", "NaN or inf", "Use confidence().")
    return table, member


def _fitted(table: Array, member: Members) -> tuple[Array, Array]:
    """Mean and standard deviation over the models in which an example is; [n] each."""
    few = len(table) < FEW
    count = member.sum(axis=0)
    mean, squares = _moments(table, member)
    return mean, _std(squares, count, few)


def _moments(table: Array, member: Members) -> tuple[Array, Array]:
    """Mean, and sum of squares around it, over the models in which an example is; [n] each."""
    mean = np.where(member, table, 0).sum(axis=0) / np.maximum(member.sum(axis=0), 1)
    return mean, np.where(member, (table - mean) ** 2, 0).sum(axis=0)


def _std(squares: Array, count: NDArray[np.int64], few: bool) -> Array:
    """The standard deviation from sums of squares over so many models, [..., n]."""
    least = 1 if few else 2
    if int(count.min()) < least:
        rule, remedy = f"at least {least} each way", "Train more, half of the examples in each."
        raise validate.refusal("scores", "models of an example", rule, int(count.min()), remedy)
    freedom = count - 1
    if few:  # one variance for all examples
        squares = np.broadcast_to(squares.sum(axis=-1, keepdims=True), squares.shape)
        freedom = np.broadcast_to(freedom.sum(axis=-1, keepdims=True), freedom.shape)
    std = np.sqrt(np.maximum(squares, 0) / np.maximum(freedom, 1))
    if not (std > 0).all():
        rule, remedy = "different between models", "Train more models, with other seeds."
        raise validate.refusal("scores", "shadows", rule, 0.0, remedy)
    return np.asarray(std)


def _log_density(phi: Array, table: Array, member: Members) -> Array:
    mean, std = _fitted(table, member)
    return np.asarray(-(((phi - mean) / std) ** 2) / 2 - np.log(std))


def _density_by_others(table: Array, member: Members) -> Array:
    """The log density of each number, from the other models of the group alone; [K, n]."""
    mean, squares = _moments(table, member)
    own, count = member.astype(np.int64), member.sum(axis=0)
    left = count - own  # without the model itself, where it is of the group
    away = table - mean
    mean = mean - own * away / np.maximum(left, 1)
    squares = squares - own * away**2 * (count / np.maximum(left, 1))
    std = _std(squares, left, len(table) - 1 < FEW)
    return np.asarray(-(((table - mean) / std) ** 2) / 2 - np.log(std))
