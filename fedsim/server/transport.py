"""What passes between the server and the clients: work one way, replies the other.

An `Exchange` carries it: Messages within this process, or over any Flower Grid.
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
    """What a cohort is asked to do.

    kind: local work, or only the loss of the model in `broadcast` on each client's own examples.
    accepted: client -> the last round whose reply was accepted.
    selection: the selection's state after it chose this cohort.
    bytes_down, bytes_up: traffic that choosing the cohort took.
    entries: what the ledger is charged for the round, before it begins.
    """

    round_num: int
    broadcast: Any
    clients: list[int]
    accepted: Mapping[int, int]
    kind: Literal["train", "score"] = "train"
    selection: Any = ()
    bytes_down: int = 0
    bytes_up: int = 0
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Replies:
    """The replies of some clients, as they come in. failures: client -> why there is none.

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


def gather(portions: Iterable[Replies]) -> Replies:
    """Copy all portions into one; a portion's memory may be used again for the next."""
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
