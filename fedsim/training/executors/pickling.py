"""Pickle a trainer for workers, with its large tensors apart from the code.

A scenario consists of closures, which cloudpickle can write. Large tensors stay out of the bytes,
so that workers can share them: as shared memory on one machine, as objects in Ray's store.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import torch
from torch import Tensor

from fedsim.core.dataset import Examples
from fedsim.core.machine import set_precision
from fedsim.training.trainer import Trainer

_SMALL = 1 << 12  # bytes; a smaller tensor is pickled with the code


@dataclass(frozen=True)
class Packed:
    """A trainer as bytes and tensors. tensors: on the CPU, contiguous."""

    code: bytes
    tensors: list[Tensor]


def pack(trainer: Trainer) -> Packed:
    """Pickle a trainer and all that it needs, without test data and owners."""
    dataset = trainer.population.dataset
    no_tests = Examples(dataset.test.x[:0].clone(), dataset.test.y[:0].clone())
    stripped = replace(dataset, test=no_tests, train_owners=None, test_owners=None)
    population = replace(trainer.population, dataset=stripped, own_tests=None)
    tensors: list[Tensor] = []
    stream = io.BytesIO()
    _Pickler(stream, tensors).dump(replace(trainer, population=population))
    return Packed(stream.getvalue(), tensors)


def unpack(code: bytes, tensors: Sequence[Tensor], device: torch.device) -> Trainer:
    """Load a pickled trainer onto a device of this process."""
    unpickler = _Unpickler(io.BytesIO(code), tensors)
    trainer: Trainer = unpickler.load()
    set_precision(trainer.precision)
    return replace(trainer, population=trainer.population.to(device), device=device)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Puts large tensors into a list, and their number into the pickle."""

    def __init__(self, stream: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(stream)
        self._tensors = tensors
        self._known: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        """The number of a large tensor; None for anything else, which is pickled."""
        if type(obj) is not Tensor or obj.numel() * obj.element_size() < _SMALL:
            return None
        if id(obj) not in self._known:
            self._known[id(obj)] = len(self._tensors)
            self._tensors.append(obj.detach().cpu().contiguous())
        return self._known[id(obj)]


class _Unpickler(pickle.Unpickler):
    """Finds the large tensors by their numbers."""

    def __init__(self, stream: io.BytesIO, tensors: Sequence[Tensor]) -> None:
        super().__init__(stream)
        self._tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        """The tensor of that number."""
        return self._tensors[pid]
