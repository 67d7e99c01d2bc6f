"""Pretrain a text classifier centrally, on public texts, as a base for adapters.

The result depends on the seed alone and is cached: no published weights ship with this project.

Shapes: n texts, L tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedsim.core.cache import cached
from fedsim.core.dataset import Examples, Source
from fedsim.core.errors import at_least, positive
from fedsim.core.machine import use_threads
from fedsim.core.rng import Purpose, derived_seed, torch_stream
from fedsim.core.trees import Tree


def pretrain(
    source: Source,
    build: Callable[[], nn.Module],
    *,
    epochs: int = 3,
    lr: float = 1e-3,
    batch_size: int = 128,
    seed: int = 0,
    padding: int = 0,
) -> Callable[[Path | None], Tree]:
    """Train a text classifier with Adam on the training part of a source, when a run begins.

    Args:
        source: public texts, of no client.
        build: makes the model; it must take texts shorter than the longest.
        epochs: passes over the source.
        lr: Adam's learning rate.
        batch_size: texts a step; those of a batch have about the same length.
        seed: of the initial weights and of the order.
        padding: the token at the end of short texts.

    Returns:
        Data folder -> the weights by name. The first call trains, for about half a minute at the
        sizes of `fedsim.models.transformer`; later ones read the cache.

    Raises:
        InputError: epochs or batch_size is below 1, or lr is not above 0.

    Guarantees:
        The same seed gives the same bits, and torch's global generator stays as it was.
    """
    at_least("pretrain", 1, "Use 3.", epochs=epochs)
    at_least("pretrain", 1, "Use 128.", batch_size=batch_size)
    positive("pretrain", "Use 1e-3.", lr=lr)

    def read(data_dir: Path | None) -> Tree:
        dataset = source.load(data_dir)
        with torch.random.fork_rng(devices=[]):
            # not the seed of a task: a fresh classifier must not be the one that was trained on
            torch.manual_seed(derived_seed(seed, Purpose.DATA))
            model = build()
        recipe = (epochs, lr, batch_size, seed, padding, torch.__version__)
        key = repr((dataset.fingerprint(), str(model), recipe))

        def train() -> dict[str, NDArray[Any]]:
            order = torch_stream(seed, Purpose.DATA)
            with use_threads(1), torch.enable_grad():  # one thread: the same sums on every machine
                optimiser = torch.optim.Adam(model.parameters(), lr=lr)
                for _ in range(epochs):
                    for x, y in _batches(dataset.train, batch_size, padding, order):
                        loss = functional.cross_entropy(model(x), y)
                        optimiser.zero_grad()
                        loss.backward()  # type: ignore[no-untyped-call]
                        optimiser.step()
            return {name: value.detach().numpy() for name, value in model.named_parameters()}

        found = cached("pretrained", key, train)
        return {name: torch.from_numpy(value) for name, value in found.items()}

    return read


def _batches(
    examples: Examples, size: int, padding: int, order: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass in random order, in batches of texts of about one length, cut to the longest."""
    lengths = (examples.x != padding).sum(dim=1)
    mixed = torch.randperm(len(lengths), generator=order)
    by_length = mixed[lengths[mixed].argsort(stable=True)]
    starts = torch.arange(0, len(mixed), size)
    for start in starts[torch.randperm(len(starts), generator=order)].tolist():
        rows = by_length[start : start + size]
        longest = max(1, int(lengths[rows].max()))
        yield examples.x[rows, :longest], examples.y[rows]
