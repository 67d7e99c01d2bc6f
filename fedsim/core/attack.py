"""What clients may do instead of what they are asked: the record of an attack.

Shapes: a attackers and h honest clients of a round; C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fedsim.core.trees import Tree


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What some clients do.

    clients: how many, drawn for each seed, or their numbers.
    labels: (labels [m], C) -> the labels they train on instead; None where they train honestly.
    forge: (own updates, stack [a, ...], honest updates, stack [h, ...]) -> what they send instead,
        [a, ...]; None where they send what they have. a is not 0, h may be.
    """

    name: str
    clients: int | tuple[int, ...]
    labels: Callable[[Tensor, int], Tensor] | None = None
    forge: Callable[[Tree, Tree], Tree] | None = None
