"""The record of an attack: what Byzantine clients train on or send instead of honest work.

Shapes: a attackers and h honest clients of a round; C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fedsim.core.trees import Tree


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack by some of the clients.

    clients: how many attack, drawn for each seed, or their client numbers.
    labels: (labels [m], C) -> the labels they train on instead; None if they keep their labels.
    forge: (attackers' updates, stack [a, ...], honest updates, stack [h, ...]) -> the updates that
        the attackers send instead, [a, ...]; None if they send their own. a >= 1, h may be 0.
    """

    name: str
    clients: int | tuple[int, ...]
    labels: Callable[[Tensor, int], Tensor] | None = None
    forge: Callable[[Tree, Tree], Tree] | None = None
