"""The best attack on canaries that one can have from what a run releases, and what it shows.

Any function of the output may score the canaries: the bounds hold for all of them.  That of an
adversary who knows the mechanism shows most: the log likelihood ratio of "in" and "out".  With x
what is seen of a canary in a round, in clip norms, and q the chance that it is asked,

    l(x) = ln(1 - q + q exp((2 x - 1) / (2 z^2)))

sums over rounds; where the coin decides between c and -c, l(x) - l(-x) does.  Where it is public
who is asked (clients take turns, or send their own noised updates), q is 1 or 0.  Elsewhere that is
a secret, which no score may use.  Correlated noise is made white first, M y with the strategy M.

Examples are only seen through their clients' training: both kinds are taken for Gaussians that
differ in the mean, whose ratio is the sum of what is seen less the mean of all.

Source
    Steinke, Nasr, Jagielski (2023), arXiv:2305.08846, for the game; Neyman, Pearson (1933).

Shapes: T rounds, M canaries.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedsim.core.errors import PrivacyError, refusal
from fedsim.core.ledger import Entry
from privacy.auditing.bounds import cosine, one_run
from privacy.auditing.bounds.clopper_pearson import Counts
from privacy.auditing.bounds.cosine import LEAST_CANARIES, LEAST_DIMS, Estimate
from privacy.auditing.bounds.lower_bound import LowerBound
from privacy.auditing.noise import from_canaries
from privacy.auditing.noise.round_test import Quiet
from privacy.auditing.noise.step_test import Wiring
from privacy.auditing.run.canary_record import Mask, Record
from privacy.auditing.run.files import COPY
from privacy.mechanisms.entry_reader import AuditModel
from privacy.mechanisms.readers import reader_of
from privacy.validate import Array


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a run's canaries show.

    wiring, quiet: of the noise. bounds, estimate: of epsilon. counts: of the attack that calls the
    upper half of the scores "in". canaries: how many there were, or were seen if those are too few.
    """

    wiring: tuple[Wiring, ...] = ()
    quiet: Quiet | None = None
    bounds: tuple[LowerBound, ...] = ()
    estimate: Estimate | None = None
    counts: Counts | None = None
    canaries: int = 0


def examine(record: Record, entries: Sequence[Entry], delta: float) -> Findings:
    """All that a run's canaries show.

    Args:
        record: what they saw.
        entries: of the run's ledger.
        delta: of the claim.

    Raises:
        InputError: a canary that should be observed in every round was not.
        PrivacyError: rounds are not charged alike.
    """
    if not record.rounds:
        return Findings()
    if not entries:  # no client was asked, and nothing was released
        return Findings(canaries=record.canaries)
    model = _alike(entries)
    if model.each_update:
        record = _as_often(record, entries)
    unseen = np.isnan(record.seen).any(axis=1)
    if not record.of_examples and not model.each_update and unseen.any():
        raise refusal(
            "audit",
            f"seen of round {int(unseen.argmax()) + 1}",
            "a number for every canary",
            None,
            COPY,
        )
    wiring, quiet = from_canaries.wired(record, model), from_canaries.missing(record, model)
    seen = int(np.isfinite(record.seen).any(axis=0).sum())
    if seen < LEAST_CANARIES:
        return Findings(wiring=wiring, quiet=quiet, canaries=seen)
    found = scores(record, model)
    each = guesses(record.canaries)
    answers = one_run.compared(one_run.guess(found, each, each), record.included)
    half = record.canaries // 2
    return Findings(
        wiring=wiring,
        quiet=quiet,
        bounds=(
            one_run.lower(answers, delta=delta),
            one_run.gaussian_lower(answers, delta=delta),
        ),
        estimate=_estimate(record, delta),
        counts=_counted(one_run.guess(found, half, record.canaries - half) > 0, record.included),
        canaries=record.canaries,
    )


def _alike(entries: Sequence[Entry]) -> AuditModel:
    """How canaries are observed, where all entries have the same noise for what they bound."""
    first, model = entries[0], _model(entries[0])
    for entry in entries:
        noise = _model(entry).noise
        same = math.isclose(noise, model.noise, rel_tol=1e-6)
        if not same or entry.mechanism != first.mechanism:
            raise PrivacyError(
                f"audit: noise must be charged alike in all rounds for canaries to be judged; got "
                f"{entry.mechanism} with {noise:.4g} in round {entry.round}, "
                f"and {first.mechanism} with {model.noise:.4g} before. Audit a copy "
                "of the folder without canaries.json and canaries.jsonl."
            )
    return model


def _model(entry: Entry) -> AuditModel:
    return reader_of(entry).audit(entry)


def _as_often(record: Record, entries: Sequence[Entry]) -> Record:
    """Without canaries that sent more often than any client, for which the claim is made."""
    times = Counter(client for entry in entries for client in entry.clients)
    kept = record.asked.sum(axis=0) <= max(times.values(), default=record.rounds)
    return record if kept.all() else record.only(kept)


def guesses(canaries: int) -> int:
    """How many canaries are guessed to be in, and as many to be out: nothing else decides it.

    A twentieth, as the surest guesses are right most often; but of few canaries 25, or all: so
    many must be right before they show anything.
    """
    return max(canaries // 20, min(canaries // 2, 25))


def scores(record: Record, model: AuditModel) -> Array:
    """How much what was released speaks for each canary's coin being 1, [M].

    Args:
        record: what canaries saw.
        model: the noise, and what is known of who is asked.

    Guarantees:
        Who was asked makes no difference where it is secret.
        A canary that cannot have been seen scores 0, between both kinds.
    """
    if record.of_examples:
        there = np.isfinite(record.seen)
        middle = record.seen[there].mean() if there.any() else 0.0
        return np.asarray(np.where(there, record.seen - middle, 0.0).sum(axis=0))
    z, matrix = model.noise, model.strategy(record.rounds)
    seen = np.nan_to_num(record.seen)
    if matrix is not None and model.asked_is_public:
        ways = matrix @ record.asked
        along = (ways * (matrix @ seen)).sum(axis=0)
        return np.asarray((along - (ways**2).sum(axis=0) / 2) / z**2)
    lengths = np.ones(record.rounds)
    if matrix is not None:  # rounds of a group have no noise in common: each is looked at alone
        seen, lengths = matrix.T @ (matrix @ seen), (matrix**2).sum(axis=0)
    with np.errstate(divide="ignore"):
        chances = _chances(record, model)
        never, ever = np.log1p(-chances), np.log(chances)

    def ratios(of: Array) -> Array:
        return np.asarray(np.logaddexp(never, ever + (of - lengths[:, None] / 2) / z**2))

    found = ratios(seen)
    if record.opposed:
        found = found - ratios(-seen)
    return np.asarray(found.sum(axis=0))


def _chances(record: Record, model: AuditModel) -> Array:
    """The probability that each canary is asked, to an adversary [T, M]."""
    if model.asked_is_public:
        return record.asked.astype(np.float64)
    turns, own = (np.arange(number) % model.groups for number in record.seen.shape)
    return np.where(turns[:, None] == own, model.sampling_prob, 0.0)


def _counted(called: Mask, included: Mask) -> Counts | None:
    if included.all() or not included.any():
        return None
    return Counts(
        true_positives=int((called & included).sum()),
        false_negatives=int((~called & included).sum()),
        false_positives=int((called & ~included).sum()),
        true_negatives=int((~called & ~included).sum()),
    )


def _estimate(record: Record, delta: float) -> Estimate | None:
    """From where the model went in the end; None where that says nothing."""
    if record.cosines is None or record.dims < LEAST_DIMS:
        return None
    both = record.opposed  # then canaries that are out went the opposite way
    taken = record.included | both
    signed = np.where(record.included, record.cosines, -record.cosines)[taken]
    asked = record.asked[:, taken].any(axis=0)
    if asked.sum() < LEAST_CANARIES or not np.ptp(signed[asked]) > 0:
        return None
    found = cosine.estimate(signed, record.dims, delta=delta, asked=asked)
    if not both or found.mean <= 0:
        return found
    return replace(
        found, epsilon=cosine.gaussian_epsilon(found.std, 2 * found.mean, found.std, delta)
    )
