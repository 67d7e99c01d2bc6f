"""DiceSGD: what clipping cuts off is kept by the client and comes back in later steps.

Paper     Zhang, Bu, Wu, Hong (2024), "Differentially private SGD without clipping bias: an
          error-feedback approach", ICLR 2024, arXiv:2311.14632, algorithm 2
Unit      an example of a client; the client's number of examples is public
Relation  zero-out
Noise     each client, in every local step
Protects  from anyone who sees models or updates, and only as far as the ledger says (below);
          the feedback e stays with the client: a checkpoint that holds it is not private
Notation  B expected batch size, C1 clip norm, C2 feedback norm, G a hard bound on every gradient

Every local step of a client:

    1  v = (1/B) sum_i clip(g_i, C1) + clip(e, C2)
    2  the step's gradient is v + N(0, sigma_1^2)
    3  e = e + (1/B) sum_i g_i - v

What it guarantees. The paper calibrates sigma_1 = z C1 sqrt(1 + 2 C2 / C1) / B with z of subsampled
DP-SGD. That is its claim and no proof (docs/guides/privacy.md has a counter-example): e carries raw
gradients into steps in which their example was not drawn. So without a G the ledger says "no
guarantee". With one, every g_i is first cut to G, and

    mu = (sqrt(k) C1 + k (G - C1)+) / (B sigma_1)     for an example that takes part k times

holds, without amplification. DP-SGD with clip norm G is never worse.

Deviations  line 3 follows the paper, not its released code, which shortens e once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.errors import PrivacyError
from fedsim.core.example_rule import ExampleRule, Question
from fedsim.core.ledger import Entry
from fedsim.core.scenario import Exposure, Mechanism
from fedsim.core.trees import Tree
from fedsim.training.per_example import example_sums
from privacy import validate
from privacy.accounting.events import Event, Gaussian
from privacy.accounting.ledger_account import LedgerAccount
from privacy.accounting.releases import Release, Times, no_guarantee
from privacy.mechanisms import example_level
from privacy.mechanisms.clipping import flat, layer_squares, scaled
from privacy.mechanisms.entry_reader import AuditModel, EntryReader, written_by

KINDS = ("poisson", "shuffled", "ordered")


def error_feedback(
    *,
    noise_multiplier: float,
    clip_norm: float = 1.0,
    feedback_norm: float | None = None,
    largest: float | None = None,
    delta: float = 1e-5,
) -> Mechanism[tuple[()]]:
    """Clipped gradients with feedback of what was cut off (lines 1 to 3).

    Args:
        noise_multiplier: z of the paper's calibration: the noise's standard deviation on a step's
            sum is z C1 sqrt(1 + 2 C2 / C1).
        clip_norm: C1.
        feedback_norm: C2; C1 where left out.
        largest: G. Without it nothing is guaranteed.
        delta: at which epsilon is given.

    Unit: an example. Relation: zero-out. Sensitivity: none without G.
    Noise by: the client. Protects from: the server and everyone after it, with G.

    Raises:
        PrivacyError: a number is out of its range. (Before a run:) batches are drawn with
            replacement or by what the data say, or the strategy asks for losses, or for more than
            one gradient in a step.

    Guarantees:
        What was sent and what is kept add up to the gradients.
        While no gradient is longer than C1 nothing is kept.
    """
    validate.noise("error_feedback", noise_multiplier, zero_allowed=False)
    validate.length("error_feedback", clip_norm=clip_norm)
    validate.delta("error_feedback", delta)
    second = clip_norm if feedback_norm is None else feedback_norm
    validate.length("error_feedback", feedback_norm=second)
    if largest is not None:
        validate.length("error_feedback", largest=largest)
    std = noise_multiplier * clip_norm * math.sqrt(1 + 2 * second / clip_norm)
    details: Mapping[str, Any] = {
        "clip_norm": clip_norm,
        "feedback_norm": second,
        "largest": largest,
        "claimed_noise_multiplier": noise_multiplier,
    }

    plain = example_level.spend(
        mechanism="error_feedback",
        sensitivity=clip_norm,
        noise_multiplier=std / clip_norm,
        details=lambda sampling: details,
    )

    def spend(state: tuple[()], exposure: Exposure) -> tuple[Entry, ...]:
        if exposure.calls != 1:
            raise PrivacyError(
                f"error_feedback: strategy must ask for one gradient a step; got {exposure.calls}. "
                "Use one that does, or dp_sgd."
            )
        return plain(state, exposure)

    bounded = "no guarantee" if largest is None else f"gradients cut to {largest:g} first"
    return Mechanism(
        name=f"error_feedback(z={noise_multiplier:g}, C1={clip_norm:g}, C2={second:g})",
        unit="example",
        relation="zero-out",
        noise_by="each client, in every local step",
        protects_from="anyone who sees models or updates, but not the client's own feedback",
        statement=(
            f"Examples, DiceSGD: clip norm {clip_norm:g}, feedback norm {second:g}, {bounded}; "
            f"epsilon at delta {delta:g}. The paper's calibration is a claim, not a proof."
        ),
        bound=example_level.bound,
        release=example_level.release,
        example_rule=_rule(clip_norm, second, largest, std),
        spend=spend,
        account=lambda: LedgerAccount(delta, READER.release),
        objection=example_level.objection("error_feedback", *KINDS),
        norm=lambda state: clip_norm,
        canaries="examples",
    )


def _rule(
    clip_norm: float, feedback_norm: float, largest: float | None, std: float
) -> ExampleRule[Tree]:
    back = flat(feedback_norm).factors

    def bounded(squares: dict[str, Tensor]) -> dict[str, Tensor]:
        """g_i itself, cut to G where there is one."""
        if largest is not None:
            return flat(largest).factors(squares)
        return {path: torch.ones_like(square) for path, square in squares.items()}

    def clipped(squares: dict[str, Tensor]) -> dict[str, Tensor]:
        """clip(g_i, C1) of a g_i that was cut to G."""
        return flat(min(clip_norm, largest or math.inf)).factors(squares)

    def answer(question: Question[Tree]) -> tuple[Tree, Tensor, Tree]:
        asked, kept, expected = question.asked, question.memory, question.facts.expected
        sums = example_sums(
            question.task,
            asked.params,
            asked.batch,
            clipped,
            bounded,
            penalty=question.penalty,
            held=asked.held,
        )
        short, whole = (
            {name: t / example_level.column(expected, t) for name, t in total.items()}
            for total in sums.totals
        )
        own = {name: kept[name] for name in short}  # of what is learned
        v = trees.add(short, scaled(own, back(layer_squares(own))))  # line 1
        noise = example_level.drawn(example_level.key_of(question), v)
        scale = std / expected
        gradient = example_level.noised(v, noise, scale, torch.ones_like(expected))  # line 2
        left = trees.subtract(trees.add(own, whole), v)  # line 3
        return gradient, sums.losses, kept | left

    return ExampleRule(answer=answer, memory=trees.zeros_like)


# --- how the ledger's entries are read ------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FeedbackRelease(Release):
    """Steps of DiceSGD with gradients cut to G."""

    clip_norm: float
    largest: float
    noise_std: float

    def event(self, times: Times, rounds: int) -> Event:
        """One Gaussian mechanism for all steps together."""
        mu = error_feedback_mu(self.clip_norm, self.largest, self.noise_std, times=sum(times))
        return Gaussian(mu=mu)


def error_feedback_mu(clip_norm: float, largest: float, noise_std: float, *, times: int) -> float:
    """Mu of DiceSGD for an example that takes part k times: (sqrt(k) C1 + k (G - C1)+) / noise_std.

    No amplification by sampling: what clipping cut off an example comes back in later steps, in
    which it was not drawn. Derived in docs/guides/privacy.md.

    Args:
        clip_norm: C1.
        largest: G, which every example's gradient is cut to before anything else.
        noise_std: on a step's sum.
        times: k.
    """
    return (math.sqrt(times) * clip_norm + times * max(0.0, largest - clip_norm)) / noise_std


def _release(entry: Entry) -> Release:
    if entry.details.get("largest") is None:
        return no_guarantee(entry)
    return FeedbackRelease(
        clip_norm=float(entry.details["clip_norm"]),
        largest=float(entry.details["largest"]),
        noise_std=entry.noise_std,
    )


def _caveats(entry: Entry, lower: float | None) -> tuple[str, ...]:
    return (
        *example_level.caveats(entry, lower),
        "error feedback: what its paper calibrates for is no proof (docs/guides/privacy.md).",
    )


READER = EntryReader(
    wrote=written_by("example", "error_feedback"),
    release=_release,
    audit=lambda entry: AuditModel(noise=entry.noise_std / entry.sensitivity),
    caveats=_caveats,
)
