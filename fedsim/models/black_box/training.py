"""Small classifiers, trained once and cached, as targets of black-box problems.

The same data and sizes give the same weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedsim.core.cache import cached
from fedsim.core.machine import use_threads
from fedsim.core.rng import Purpose, numpy_stream
from fedsim.core.trees import Tree

_BATCH = 64


def train_classifier(
    build: Callable[[], nn.Module], x: Tensor, y: Tensor, *, epochs: int, lr: float, seed: int = 0
) -> tuple[nn.Module, Tree]:
    """Train a classifier with Adam on examples x [n, ...], y [n]; the module and its weights.

    Guarantees:
        The same arguments give the same weights, and nothing is drawn from a global generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().requires_grad_()

    def train() -> dict[str, NDArray[Any]]:
        with use_threads(1), torch.enable_grad():
            optimiser = torch.optim.Adam(model.parameters(), lr=lr)
            for epoch in range(epochs):
                order = numpy_stream(seed, Purpose.BATCHES, epoch).permutation(len(y))
                for rows in torch.split(torch.from_numpy(order), _BATCH):
                    optimiser.zero_grad()
                    loss = functional.cross_entropy(model(x[rows]), y[rows])
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
        return {name: value.detach().numpy() for name, value in model.named_parameters()}

    digest = hashlib.sha256(x.numpy().data)
    digest.update(y.numpy().data)
    key = f"{model!r}|{epochs}|{lr}|{seed}|{digest.hexdigest()}|{torch.__version__}"
    stored = cached("trained", key, train)
    weights = {name: torch.from_numpy(array) for name, array in stored.items()}
    return model.requires_grad_(False), weights
