"""A gradient that is planted in single steps, so that a mechanism's noise can be measured.

A mechanism that protects examples is asked, by its own step code, for the gradient of a batch with
one example in it, the canary, and of the same batch without it. Every trial is a client with
randomness of its own, and all of them are asked at once.

The canary's gradient is the same at every point: ten clip norms long, with a quarter of its energy
in each of four tensors, two of them biases. So it is clipped, by layer or as a whole, to the clip
norm; and what one tensor lacks in noise, all of it lacks by a visible part. All entries have the
same sign: noise that they have in common is not averaged away. Without the canary the batch is
empty: what leaves out the noise of empty batches does so in every other trial.

Source: Nasr et al. (2023), arXiv:2302.07956.

Shapes: k trials, n steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core import trees
from fedsim.core.batch import Batch
from fedsim.core.errors import at_least
from fedsim.core.example_rule import Asked, ClientFacts, ExampleRule, Question
from fedsim.core.rng import Purpose, bits, client_keys
from fedsim.core.scenario import Mechanism
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.models.tasks import supervised

_INPUTS, _OUTPUTS = 7, 4  # of two dense layers, side by side
_SHAPES = {
    "first.weight": (_OUTPUTS, _INPUTS),
    "first.bias": (_OUTPUTS,),
    "second.weight": (_OUTPUTS, _INPUTS),
    "second.bias": (_OUTPUTS,),
}
_LENGTH = 10.0  # of the canary, in clip norms
_EXPECTED = 4.0  # examples in a batch, so the public divisor is not the number that is there
_AT_ONCE = 1 << 14  # trials


@dataclass(frozen=True)
class Probe:
    """What single steps released, along the canary's direction and in clip norms; [k / 2, n].

    inside: with the canary in the first step. outside: without it. Both are sums: what was
        answered, times the public number that a sum of gradients is divided by.
    """

    inside: Tensor
    outside: Tensor


def probe(mechanism: Mechanism[Any], seed: int, trials: int = 5000, steps: int = 1) -> Probe | None:
    """Observations of a canary through a mechanism's own steps, half of them without it.

    The canary has its batch to itself, and moves what is released by one clip norm. Where a batch
    is clipped as a whole that is half of what it can do: it cannot turn an empty one.

    Args:
        mechanism: which protects examples.
        seed: of the probe, whose randomness is no run's.
        trials: half of them with the canary; max(1, z^2) 5000 tell a noise multiplier z with a
            standard error of 3 %.
        steps: of each trial; the canary takes part in the first, and what the mechanism remembers
            goes on from each to the next.

    Returns:
        None where the mechanism has no rule for examples, or no clip norm.

    Raises:
        InputError: there are fewer than four trials, or no step.

    Guarantees:
        Trials are independent.
        The first half of the trials has the canary, and the rest are the same without it.
    """
    at_least("probe", 4, "Use 5000.", trials=trials)
    at_least("probe", 1, "Use 1.", steps=steps)
    rule = mechanism.example_rule
    if rule is None:
        return None
    norm = mechanism.norm(mechanism.init(_origin()))
    if not math.isfinite(norm):
        return None
    task = _linear(_LENGTH * norm)
    half = trials // 2
    there = torch.arange(2 * half) < half
    seen = [
        _observed(rule, task, seed, numbers, there[numbers], steps)
        for numbers in torch.split(torch.arange(2 * half), _AT_ONCE)
    ]
    along = torch.cat(seen) * (_EXPECTED / norm)
    return Probe(inside=along[:half], outside=along[half:])


def _observed(
    rule: ExampleRule[Any], task: Task, seed: int, numbers: Tensor, there: Tensor, steps: int
) -> Tensor:
    """What the trials of these numbers [k] released along the canary, by step; [k, n], float64."""
    k, params = len(numbers), task.init(seed)
    points, memory = (
        trees.map_leaves(state, lambda tensor: tensor.expand(k, *tensor.shape).clone())
        for state in (params, rule.memory(params))
    )
    facts = ClientFacts(torch.full((k,), _EXPECTED), client_keys(seed, Purpose.CANARY, 0, numbers))
    keys = bits(client_keys(seed, Purpose.CANARY, 1, numbers), steps)
    x, y = torch.full((k, 1, _INPUTS), _INPUTS**-0.5), torch.zeros(k, 1, dtype=torch.int64)
    direction = trees.flatten(_canary()).to(torch.float64)
    seen = []
    for step in range(steps):
        mask = (there & (step == 0)).to(torch.float32).unsqueeze(1)
        asked = Asked(points, Batch(x, y, mask, keys[:, step]), (), {})
        question = Question(
            task=task, asked=asked, facts=facts, memory=memory, penalty=None, call=0
        )
        gradient, _, memory = rule.answer(question)
        seen.append(trees.flatten_rows(gradient, params).to(torch.float64) @ direction)
    return torch.stack(seen, dim=1)


def _origin() -> Tree:
    """Where all gradients are asked for."""
    return {name: torch.zeros(shape) for name, shape in _SHAPES.items()}


def _canary() -> Tree:
    """The direction of the canary's gradient: the same energy in each tensor; of length 1."""
    return {
        name: torch.full(shape, (len(_SHAPES) * math.prod(shape)) ** -0.5)
        for name, shape in _SHAPES.items()
    }


class _Two(nn.Module):
    """Two dense layers, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(_INPUTS, _OUTPUTS), nn.Linear(_INPUTS, _OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """Their outputs, added."""
        added: Tensor = self.first(x) + self.second(x)
        return added


def _linear(length: float) -> Task:
    """A loss that is linear in the parameters; for inputs of length 1 its gradient is so long."""
    scale: float = length / (len(_SHAPES) * _OUTPUTS) ** 0.5  # each tensor has as much of it
    task = supervised("canary", _Two, lambda outputs, y: outputs.sum(dim=1) * scale)
    return replace(task, init=lambda seed: _origin())
