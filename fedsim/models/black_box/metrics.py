"""Tune a trained classifier for a metric that has no gradient, such as F1.

Source: the setting of Shu, Lin, Dai, Low (2023), arXiv:2308.04077, section 6.3, on UCI Adult for
Covertype.

Box, for client i with examples D_i:
    weights = those of a network trained by cross-entropy, + reach (2 x - 1)
    f_i(x)  = 1 - metric of its predictions on all of D_i together
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from fedsim.core import trees
from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.errors import InputError, at_least, positive, unknown
from fedsim.core.rng import Purpose, numpy_stream
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.data import adult
from fedsim.models.black_box.problem import Problem, black_box, deferred
from fedsim.models.black_box.training import train_classifier
from fedsim.models.vision import mlp
from fedsim.world import partition

Metric = Literal["f1", "precision", "recall", "jaccard"]
_EPOCHS, _LR = 3, 2e-3


def metric(
    kind: Metric = "f1",
    *,
    source: Source | None = None,
    population: int = 7,
    rows: int = 960,
    hidden: int = 20,
    reach: float = 1.0,
    seed: int = 0,
) -> Problem:
    """1 - a metric of two classes. A client's only example is a whole table [rows, columns + 1].

    The last column of a table is the label. Clients are the owners with most examples, cut to the
    same number.

    Args:
        kind: which metric, of the class 1.
        source: two classes with owners; UCI Adult if left out, whose owners are kinds of employer.
        population: N, how many owners take part.
        rows: examples of a client.
        hidden: units of the network; with 20, Adult has d = 2,222.
        reach: the most that a weight may change.
        seed: of the network and of the choice of examples.

    Raises:
        InputError: kind is not one of these, a number is below 1, or reach is not above 0.

    Guarantees:
        Every client's value is the metric over all its rows together.
    """
    if kind not in get_args(Metric):
        raise unknown("metric", "kind", kind, get_args(Metric))
    at_least("metric", 1, "Use 7, 960 and 20.", population=population, rows=rows, hidden=hidden)
    positive("metric", "Use 1.", reach=reach)
    chosen = adult() if source is None else source
    name = f"{kind}({chosen.name}, reach={reach:g})"

    def load(data_dir: Path | None) -> Dataset:
        tables = _tables(chosen.load(data_dir), population, rows, seed)
        examples = Examples(tables, torch.zeros(population, dtype=torch.int64))
        return Dataset(name=name, train=examples, test=examples, num_classes=1)

    def prepare(data_dir: Path | None) -> Task:
        train = chosen.load(data_dir).train
        build = partial(mlp, train.x.shape[1], hidden, 2)
        model, weights = train_classifier(
            build, train.x, train.y, epochs=_EPOCHS, lr=_LR, seed=seed
        )
        centre = trees.flatten(weights)

        def query(params: Tree, x: Tensor) -> Tensor:
            moved = trees.unflatten(centre.to(x.device) + reach * (2 * params["x"] - 1), weights)
            logits: Tensor = functional_call(model, moved, (x[..., :-1].flatten(0, -2),))
            positive = (logits[:, 1] > logits[:, 0]).reshape(x.shape[:-1])
            return 1 - score(kind, positive.to(x.dtype), x[..., -1])

        def start(seed: int) -> Tree:
            return {"x": torch.full_like(centre, 0.5)}

        return black_box(name, query=query, start=start)

    return Problem(
        data=Source(name=name, load=load),
        split=partition.given(np.arange(population)),
        task=deferred(name, prepare),
        population=population,
        examples=1,
        floor=None,
    )


def score(kind: Metric, predictions: Tensor, y: Tensor) -> Tensor:
    """A metric of predictions (0. or 1.) [..., n] for y [..., n]; [...], 0 if none is right."""
    true_positives = (predictions * y).sum(dim=-1)
    predicted, actual = predictions.sum(dim=-1), y.sum(dim=-1)
    denominator = {
        "f1": (predicted + actual) / 2,
        "precision": predicted,
        "recall": actual,
        "jaccard": predicted + actual - true_positives,
    }[kind]
    return true_positives / denominator.clamp(min=1)


def _tables(dataset: Dataset, population: int, rows: int, seed: int) -> Tensor:
    """The tables of the owners with most examples, [population, rows, columns + 1]."""
    if dataset.train_owners is None:
        raise InputError(
            f"metric: source must be data with owners; got {dataset.name}. Use adult()."
        )
    names, counts = np.unique(dataset.train_owners, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:population]
    if len(order) < population or counts[order[-1]] < rows:
        enough = int((counts >= rows).sum())
        raise InputError(
            f"metric: population must be at most the owners with {rows} examples, {enough}; got "
            f"{population}. Use fewer clients or fewer rows."
        )
    draw = numpy_stream(seed, Purpose.SPLIT)
    whole = torch.cat([dataset.train.x, dataset.train.y.unsqueeze(1)], dim=1)
    own = [np.flatnonzero(dataset.train_owners == name) for name in names[order]]
    return torch.stack([whole[torch.from_numpy(draw.permutation(mine)[:rows])] for mine in own])
