"""The population: all examples, and for each client the indices of those it owns.

Shapes: n training examples, N clients, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.core.dataset import Dataset, Examples, Split


class Ownership(NamedTuple):
    """Which client owns which examples: client i owns rows[starts[i]:starts[i + 1]]."""

    rows: Tensor  # [n], int64
    starts: Tensor  # [N + 1], int64

    def counts(self) -> Tensor:
        """The number of examples of each client, [N]."""
        return self.starts.diff()

    def of(self, client: int) -> Tensor:
        """The rows of one client."""
        return self.rows[self.starts[client] : self.starts[client + 1]]


@dataclass(frozen=True, kw_only=True)
class Population:
    """The data of all clients. own_tests: the clients' own test examples, or None.

    absent: for each row of `owned`, whether its example is absent: it is counted and sampled like
        any other and contributes nothing, as the zero-out relation requires. None: none is absent.
    """

    dataset: Dataset
    owned: Ownership
    own_tests: Ownership | None
    absent: Tensor | None = None

    @property
    def size(self) -> int:
        """The number of clients, N."""
        return len(self.owned.starts) - 1

    def counts_of(self, clients: Sequence[int]) -> list[int]:
        """The numbers of training examples of these clients."""
        chosen = torch.tensor(clients, dtype=torch.int64)
        counts: list[int] = (self.owned.starts[chosen + 1] - self.owned.starts[chosen]).tolist()
        return counts

    def to(self, device: torch.device) -> Population:
        """The same population with its examples on a device; ownership stays on the CPU."""
        train, test = (
            Examples(part.x.to(device), part.y.to(device))
            for part in (self.dataset.train, self.dataset.test)
        )
        return replace(self, dataset=replace(self.dataset, train=train, test=test))

    def relabelled(
        self, clients: Iterable[int], labels: Callable[[Tensor, int], Tensor]
    ) -> Population:
        """The same population with other labels on these clients' training examples.

        Args:
            clients: whose labels change.
            labels: (labels [m], C) -> labels [m].
        """
        train = self.dataset.train
        y = train.y.clone()
        for client in clients:
            rows = self.owned.of(client)
            y[rows] = labels(y[rows], self.dataset.num_classes)
        return replace(self, dataset=replace(self.dataset, train=Examples(train.x, y)))

    def label_counts(self) -> NDArray[np.int64]:
        """The number of training examples of each class and client, [N, C]."""
        classes = self.dataset.num_classes
        client = torch.repeat_interleave(torch.arange(self.size), self.owned.counts())
        cell = client * classes + self.dataset.train.y[self.owned.rows].cpu()
        counts: NDArray[np.int64] = (
            torch.bincount(cell, minlength=self.size * classes).reshape(self.size, classes).numpy()
        )
        return counts


def build_population(dataset: Dataset, split: Split, population: int, seed: int) -> Population:
    """Deal a dataset to clients.

    Raises:
        InputError: the split is not possible for this dataset and population.
    """
    client, test_client = split.assign(dataset, population, seed)
    return Population(
        dataset=dataset,
        owned=_ownership(client, population),
        own_tests=None if test_client is None else _ownership(test_client, population),
    )


def _ownership(client: NDArray[np.int64], population: int) -> Ownership:
    """Group example numbers by client; those of client -1 belong to no client."""
    order = np.argsort(client, kind="stable")
    starts = np.searchsorted(client[order], np.arange(population + 1))
    return Ownership(torch.from_numpy(order[starts[0] :]), torch.from_numpy(starts - starts[0]))
