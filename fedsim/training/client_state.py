"""Client state from round to round, with a two-phase commit.

A reply may be lost or rejected, and a server that keeps a sum of client states must never disagree
with them. So a client's new state is first only prepared: it is pending, under its round's number.
It is committed when a later message says that the reply of that round was accepted, and dropped
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedsim.core import trees


class ClientStates:
    """The states of this process's clients. A strategy without client state costs nothing.

    initial: the state of a client before its first round.
    """

    def __init__(self, initial: Any) -> None:
        self._initial = initial
        self._stateless = not trees.leaves(initial)
        self._committed: dict[int, Any] = {}
        self._pending: dict[int, tuple[int, Any]] = {}

    def fetch(self, clients: Sequence[int], accepted: Mapping[int, int]) -> Any:
        """Commit or drop what was pending; the stack of these clients' states.

        Args:
            clients: their numbers.
            accepted: client -> the last round in which its reply was accepted.
        """
        if self._stateless:
            return self._initial
        for client in clients:
            round_num, state = self._pending.pop(client, (0, None))
            if round_num and accepted.get(client) == round_num:
                self._committed[client] = state
        states = [self._committed.get(client, self._initial) for client in clients]
        columns = zip(*(trees.leaves(state) for state in states), strict=True)
        return trees.rebuild(self._initial, [torch.stack(list(column)) for column in columns])

    def hold(self, clients: Sequence[int], round_num: int, states: Any) -> None:
        """Keep the new states (a stack) as pending."""
        if self._stateless:
            return
        for row, client in enumerate(clients):
            own = [leaf[row].clone() for leaf in trees.leaves(states)]
            self._pending[client] = (round_num, trees.rebuild(self._initial, own))

    def export(self) -> dict[str, dict[int, Any]]:
        """All states as plain containers of tensors, for a checkpoint."""
        return {
            "committed": {client: trees.leaves(s) for client, s in self._committed.items()},
            "pending": {
                c: [torch.tensor(r), *trees.leaves(s)] for c, (r, s) in self._pending.items()
            },
        }

    def restore(self, exported: Mapping[str, Mapping[int, list[Tensor]]]) -> None:
        """Replace all states by exported ones."""
        self._committed = {
            client: trees.rebuild(self._initial, list(tensors))
            for client, tensors in exported["committed"].items()
        }
        self._pending = {
            client: (int(tensors[0]), trees.rebuild(self._initial, list(tensors[1:])))
            for client, tensors in exported["pending"].items()
        }
