"""Client curriculum: easy clients come first. A client selection.

Paper
    Vahidian, Kadaveru, Baek, Wang, Kungurtsev, Chen, Shah, Lin. "When Do Curricula Work in
    Federated Learning?". ICCV 2023. arXiv:2212.12712; details are those of the authors' code.

Notation
    N clients that reply    T client updates planned, rounds x cohort    g pacing    a full_at
    b start

Algorithm (on the server)
    1  every client reports its mean loss under the server's model; order the clients by it
    2  pool = the first g(updates so far) clients of the order
    3  rounds with disjoint random groups of the pool, until all of it was used; then line 1

Deviations
    The last group of a pool may be small, so a run of R rounds may end short of R cohort updates,
    where the authors' ends with its budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsim.core.sampling import Draw, Sampling, Selection
from strategies.shared.pacing import Order, Pacing, pace


class Queue(NamedTuple):
    """waiting: clients of the pool that have not had their turn, then -1 [m]; used: []."""

    waiting: Tensor
    used: Tensor


def client_curriculum(
    *,
    order: Order = "curriculum",
    pacing: Pacing = "linear",
    full_at: float = 0.8,
    start: float = 0.2,
) -> Selection[Queue]:
    """Cohorts of the easiest clients first. Every reordering asks all clients for their loss.

    A client that reports no loss, such as an empty one, is left out until the next reordering; one
    whose loss is not finite comes last.

    Raises:
        InputError: a value is out of its range.

    Guarantees:
        The groups of one pool are disjoint, and together they are the pool.
        The pool is the easiest clients, and holds everyone once a of the budget is used.
    """
    g = pace("client_curriculum", pacing, full_at, start)

    def init(population: int) -> Queue:
        empty = torch.full((population,), -1, dtype=torch.int64)
        return Queue(empty, torch.zeros((), dtype=torch.int64))

    def choose(state: Queue, draw: Draw) -> tuple[Sequence[int], Queue]:
        waiting, used = state.waiting, int(state.used)
        if int(waiting[0]) < 0:
            ranked = _ranked(draw, order)  # line 1
            budget = draw.rounds * draw.cohort
            pool = ranked[: max(1, g(used, len(ranked), budget))]  # line 2
            waiting = torch.full_like(waiting, -1)
            waiting[: len(pool)] = torch.from_numpy(draw.stream.permutation(pool))
        group = [client for client in waiting[: draw.cohort].tolist() if client >= 0]  # line 3
        rest = torch.full_like(waiting, -1)
        rest[: len(waiting) - draw.cohort] = waiting[draw.cohort :]
        return sorted(group), Queue(rest, state.used + len(group))

    return Selection(
        name=f"client {order}({pacing} a={full_at:g} b={start:g})",
        sampling=Sampling(kind="chosen", words="by the clients' losses"),
        init=init,
        choose=choose,
    )


def _ranked(draw: Draw, order: Order) -> Any:
    """The clients that replied, easiest first (or last, or at random); ties at random."""
    everyone = draw.stream.permutation(draw.population)
    if order == "random":
        return everyone
    scores = draw.scores().numpy()[everyone]
    known = ~np.isnan(scores)
    everyone, scores = everyone[known], scores[known]
    if not len(everyone):
        return draw.stream.permutation(draw.population)
    signed = np.where(np.isinf(scores), np.inf, -scores if order == "anti" else scores)
    return everyone[np.argsort(signed, kind="stable")]
