"""Records of data: examples, a dataset, the source it is read from, and a split over clients."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Examples(NamedTuple):
    """x: [n, ...], uint8 or float32 as stored; y: [n], int64."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Scale:
    """Turns stored bytes into a model's inputs: (x / 255 - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """uint8 [b, c, h, w] -> float32 of the same shape."""
        shape = (-1, 1, 1)
        std = torch.tensor(self.std, device=x.device).reshape(shape)
        mean = torch.tensor(self.mean, device=x.device).reshape(shape)
        return x.to(torch.float32).mul_(1 / (255 * std)).sub_(mean / std)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Training and test examples, and their natural owners.

    train_owners, test_owners: the natural owner of each example (a writer), [n], or None.
    scale: applied to each batch if x is stored as bytes; None if x is ready to use.
    """

    name: str
    train: Examples
    test: Examples
    num_classes: int
    scale: Scale | None = None
    train_owners: NDArray[np.str_] | None = None
    test_owners: NDArray[np.str_] | None = None

    def ready(self, x: Tensor) -> Tensor:
        """Scale stored inputs for a model; x may have more leading axes than [n]."""
        return x if self.scale is None else self.scale(x)

    def fingerprint(self) -> str:
        """The SHA-256 of everything a result depends on, in 16 hex digits."""
        digest = hashlib.sha256(repr((self.name, self.scale)).encode())
        for tensor in (*self.train, *self.test):
            digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.contiguous().numpy().data)
        for owners in (self.train_owners, self.test_owners):
            digest.update(b"-" if owners is None else owners.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a dataset comes from. load: data folder or None -> Dataset.

    Raises (from load):
        InputError: a file is missing or is not what its publisher ships; the file is named.
    """

    name: str
    load: Callable[[Path | None], Dataset]


Clients = NDArray[np.int64]
"""The client number of each example, -1 if it belongs to no client."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How examples are split over clients.

    assign: (dataset, population, seed) -> the client of each training example, and the client of
        each test example if clients have test examples of their own (else None).
    """

    name: str
    assign: Callable[[Dataset, int, int], tuple[Clients, Clients | None]]
