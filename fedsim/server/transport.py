"""What passes between the server and the clients, and what of it can be used.

Whatever lies between is an `Exchange`: processes of this machine, or Flower's messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.ledger import Entry
from fedsim.core.trees import Tree
from fedsim.core.updates import Update


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is asked of a cohort.

    kind: local work, or only the loss of the model in `broadcast` on each client's own examples.
    accepted: client -> the last round whose reply was accepted.
    chooser: the selection's state after it chose.
    bytes_down, bytes_up: what choosing cost.
    entries: what the ledger is charged for it, before anything is done.
    """

    round_num: int
    broadcast: Any
    clients: list[int]
    accepted: Mapping[int, int]
    kind: Literal["train", "score"] = "train"
    chooser: Any = ()
    bytes_down: int = 0
    bytes_up: int = 0
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Replies:
    """Some clients' answers, as they come in. failures: client -> why there is nothing to use.

    update rows, losses and clients are in the same order; clients without examples are `empty`.
    There is no update where only the loss was asked for.
    """

    clients: list[int] = field(default_factory=list)
    update: Update | None = None
    losses: list[float] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)


class Exchange(Protocol):
    """How work reaches clients and replies come back, whatever lies between."""

    def __call__(self, work: Work) -> Iterator[Replies]:
        """Yield the cohort's replies, in any order and any portions."""
        ...


def gathered(portions: Iterable[Replies]) -> Replies:
    """All portions as one, copied: the next may come in the memory of the last."""
    kept, diffs, weights = list[Replies](), list[Tree](), list[Tensor]()
    for portion in portions:
        kept.append(replace(portion, update=None))
        if portion.update is not None:
            diffs.append(trees.map_leaves(portion.update.diff, torch.clone))
            weights.append(portion.update.num_examples.clone())
    whole = {name: torch.cat([diff[name] for diff in diffs]) for name in (diffs or [{}])[0]}
    return Replies(
        clients=[client for portion in kept for client in portion.clients],
        update=Update(whole, torch.cat(weights)) if diffs else None,
        losses=[loss for portion in kept for loss in portion.losses],
        empty=[client for portion in kept for client in portion.empty],
        failures={c: reason for portion in kept for c, reason in portion.failures.items()},
    )


def zeroed(update: Update) -> Update:
    """The same update with zeros for the rows that are not finite."""
    finite = trees.finite_rows(update.diff)
    rows = {
        n: torch.where(finite.reshape(-1, *(1,) * (t.dim() - 1)), t, 0)
        for n, t in update.diff.items()
    }
    return replace(update, diff=rows)


def screened(update: Update, clients: list[int]) -> tuple[Update, list[int], list[int]]:
    """The finite rows of an update, whose they are, and whose the others were."""
    finite = trees.finite_rows(update.diff)
    if bool(finite.all()):
        return update, clients, []
    rows = torch.nonzero(finite).flatten()
    flags = finite.tolist()
    kept = [client for client, good in zip(clients, flags, strict=True) if good]
    dropped = [client for client, good in zip(clients, flags, strict=True) if not good]
    return Update(trees.select_rows(update.diff, rows), update.num_examples[rows]), kept, dropped
