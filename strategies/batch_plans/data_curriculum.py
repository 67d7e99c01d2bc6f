"""Data curriculum: a client sees its easy examples first. A batch plan.

Paper
    Vahidian, Kadaveru, Baek, Wang, Kungurtsev, Chen, Shah, Lin. "When Do Curricula Work in
    Federated Learning?". ICCV 2023. arXiv:2212.12712; details are those of the authors' code.

Notation
    N examples of a client    T steps planned    g pacing    a full_at, the part of T after which
    all are used    b start, the part that is used at first

Algorithm (on a client, in each round)
    1  score every example by its loss under the received model (G), the client's own last one (L),
       both (LG), or an expert's; order them, easiest first (or last, or at random)
    2  T = (floor(N / batch_size) + 1) epochs;  step = 0
    3  while step < T:
    4      pool = the first max(g(step), 32) examples of the order
    5      one shuffled pass over the pool in batches;  step += batches

Deviations
    The learning rate within a round is the step rule's.

The other half of the paper, which clients come first, is in
strategies/client_selection/client_curriculum.py.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from fedsim.core.errors import InputError, at_least
from fedsim.core.rng import bits, mix, permutations
from fedsim.core.sampling import Sampling
from fedsim.core.scenario import BatchPlan, Scenario
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from strategies.batch_plans._epochs import join_passes
from strategies.shared.pacing import Order, Pacing, pace

Scoring = Literal["global", "local", "both", "expert"]
LEAST = 32  # examples that a pool has at least


def data_curriculum(
    *,
    epochs: int,
    batch_size: int,
    order: Order = "curriculum",
    scoring: Scoring = "global",
    errors: bool = False,
    expert: Tree | None = None,
    pacing: Pacing = "linear",
    full_at: float = 0.8,
    start: float = 0.2,
) -> BatchPlan:
    """A batch plan that orders a client's examples by difficulty.

    Args:
        epochs: sets the number of steps (line 2).
        batch_size: examples a step.
        order: easiest first, last, or at random, the control that has the same pacing.
        scoring: by which model (line 1); "local" and "both" need clients that keep their last
            model: MOON's do, any other's within `keeping_last`.
        errors: score by error (0 or 1) instead of loss.
        expert: the parameters of a trained model, such as one trained on all clients' data.
        pacing: the shape of g.
        full_at: a, the part of the steps after which all examples are used.
        start: b, the part of the examples that is used at first.

    Raises:
        InputError: a value is out of its range, or scoring is "expert" and there is none.

    Guarantees:
        The pool never shrinks, and holds everything from step a T on.
        Every pass uses each example of its pool exactly once.
        With start = 1 all examples are used in every pass.
        Scoring leaves the model and all randomness as they were.
    """
    at_least("data_curriculum", 1, "Use 1.", epochs=epochs, batch_size=batch_size)
    g = pace("data_curriculum", pacing, full_at, start)
    if scoring == "expert" and expert is None:
        raise InputError("data_curriculum: expert must be given to score by; got none. Give one.")

    @cache
    def pools(count: int) -> tuple[int, ...]:
        """The pool's size in each pass over it (lines 2 to 5)."""
        planned, step, sizes = (count // batch_size + 1) * epochs, 0, []
        while count and step < planned:
            sizes.append(min(count, max(g(step, count, planned), LEAST)))
            step += math.ceil(sizes[-1] / batch_size)
        return tuple(sizes)

    def num_steps(count: int) -> int:
        return sum(math.ceil(size / batch_size) for size in pools(count))

    def schedule(
        counts: Tensor, keys: Tensor, round_num: int, scores: Tensor | None = None
    ) -> Tensor:
        sizes = [pools(count) for count in counts.tolist()]
        passes, k = max(map(len, sizes)), len(counts)
        size = torch.tensor([own + (0,) * (passes - len(own)) for own in sizes])  # [k, passes]
        widest = math.ceil(int(size.max()) / batch_size) * batch_size
        rank = _ranks(scores, counts, keys, order)  # [k, n]
        outside = rank.unsqueeze(1) >= size.unsqueeze(2)  # [k, passes, n]
        members = torch.argsort(outside.int(), dim=2, stable=True)  # the pool first, by position
        turns = mix(keys.unsqueeze(1) ^ torch.arange(1, passes + 1)).flatten()
        shuffled = permutations(turns, size.flatten(), widest).reshape(k, passes, widest)
        places = members.gather(2, shuffled.clamp(min=0)).masked_fill(shuffled < 0, -1)
        batches = places.reshape(k, passes, widest // batch_size, batch_size)
        return join_passes(batches, (size + batch_size - 1) // batch_size)

    def scores(task: Task, broadcast: Any, client: Any, x: Tensor, y: Tensor) -> Tensor:  # line 1
        def under(params: Tree) -> Tensor:
            logits = task.predict(params, x)
            return (logits.argmax(dim=-1) != y).float() if errors else task.loss_of(logits, y)

        if expert is not None and scoring == "expert":
            return under(expert)
        received = broadcast.params
        if scoring == "global":
            return under(received)
        last = {k: torch.where(client.seen > 0, client.last[k], v) for k, v in received.items()}
        return under(last) if scoring == "local" else under(last) + under(received)

    def objection(scenario: Scenario) -> str | None:
        if order == "random" or scoring in ("global", "expert"):
            return None
        kept = scenario.strategy.client_init(scenario.task.init(0))
        if hasattr(kept, "last") and hasattr(kept, "seen"):
            return None
        return (
            f"data_curriculum: strategy must keep each client's last model to score by {scoring}; "
            f"got {scenario.strategy.name}. Wrap it in keeping_last()."
        )

    return BatchPlan(
        name=f"{order}({scoring}{' error' * errors}, {pacing} a={full_at:g} b={start:g}, "
        f"epochs={epochs}, batch_size={batch_size})",
        schedule=schedule,
        num_steps=num_steps,
        sampling=Sampling(kind="chosen", words="by scores, or a pool that grows"),
        expected=lambda count: float(batch_size),
        scores=None if order == "random" else scores,
        objection=objection,
    )


def _ranks(scores: Tensor | None, counts: Tensor, keys: Tensor, order: Order) -> Tensor:
    """The place of each example in its client's order [k, n]; ties are broken at random."""
    n = int(counts.max())
    absent = torch.arange(n) >= counts.unsqueeze(1)
    first = torch.argsort(bits(keys, n).masked_fill(absent, torch.iinfo(torch.int64).max), dim=1)
    if order != "random":
        assert scores is not None
        signed = -scores if order == "anti" else scores
        signed = signed.nan_to_num(math.inf, math.inf).masked_fill(absent, math.inf)
        first = first.gather(1, torch.argsort(signed.gather(1, first), dim=1, stable=True))
    return torch.argsort(first, dim=1)
