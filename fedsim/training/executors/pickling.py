"""A trainer as bytes and tensors, to be placed once wherever it is to work.

A scenario is closures; cloudpickle writes them. Tensors of any size stay out of the bytes, so that
whoever places the parcel can share them: pages of memory on one machine, objects in Ray's store.
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
from fedsim.core.machine import allow
from fedsim.training.trainer import Trainer

_SMALL = 1 << 12  # bytes; below, a tensor travels with the code


@dataclass(frozen=True)
class Parcel:
    """What `pack` made of a trainer. tensors: on the CPU, contiguous."""

    code: bytes
    tensors: list[Tensor]


def pack(trainer: Trainer) -> Parcel:
    """A trainer and all that it needs; test data and owners stay behind."""
    dataset = trainer.population.dataset
    nothing = Examples(dataset.test.x[:0].clone(), dataset.test.y[:0].clone())
    stripped = replace(dataset, test=nothing, train_owners=None, test_owners=None)
    population = replace(trainer.population, dataset=stripped, own_tests=None)
    tensors: list[Tensor] = []
    stream = io.BytesIO()
    _Pickler(stream, tensors).dump(replace(trainer, population=population))
    return Parcel(stream.getvalue(), tensors)


def unpack(code: bytes, tensors: Sequence[Tensor], device: torch.device) -> Trainer:
    """The trainer in a parcel, on a device of this process."""
    unpickler = _Unpickler(io.BytesIO(code), tensors)
    trainer: Trainer = unpickler.load()
    allow(trainer.precision)
    return replace(trainer, population=trainer.population.to(device), device=device)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Puts tensors aside, and a number in their place."""

    def __init__(self, stream: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(stream)
        self._tensors = tensors
        self._known: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        """The number of a tensor that stays outside."""
        if type(obj) is not Tensor or obj.numel() * obj.element_size() < _SMALL:
            return None
        if id(obj) not in self._known:
            self._known[id(obj)] = len(self._tensors)
            self._tensors.append(obj.detach().cpu().contiguous())
        return self._known[id(obj)]


class _Unpickler(pickle.Unpickler):
    """Finds the tensors by their numbers."""

    def __init__(self, stream: io.BytesIO, tensors: Sequence[Tensor]) -> None:
        super().__init__(stream)
        self._tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        """The tensor of that number."""
        return self._tensors[pid]
