"""Evaluate the server's model on the test set, and its accuracy for each client.

Shapes: n test examples, N clients, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.core.machine import count_cores, use_threads
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.world.population import Population

OWN_TESTS = "each client's own test examples"
LABEL_MATCHED = "the test set, weighted by each client's labels"
NO_ACCURACY = "none: the task has a loss and no accuracy"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of one model.

    accuracy: the share of test examples that the task counts as hits; None where it has no hits.
    personal: accuracy for each client [N], NaN where it is unknown. source: how it was computed.
    """

    loss: float
    accuracy: float | None
    personal: NDArray[np.float64]
    source: str


def evaluate(task: Task, params: Tree, population: Population, portion: int = 1000) -> Evaluation:
    """Test loss, test accuracy, and the accuracy of this one model for every client.

    Personal accuracy uses a client's own test examples where the data have them. Otherwise it is
    the accuracy on the test set with its classes weighted as in the client's own data, which is
    the expectation under label skew, costs no example, and has no noise from small samples.
    """
    test = population.dataset.test
    losses, hits = [], []
    with torch.no_grad(), use_threads(count_cores()):
        for start in range(0, len(test.y), portion):
            y = test.y[start : start + portion]
            logits = task.predict(params, population.dataset.ready(test.x[start : start + portion]))
            losses.append(task.loss_of(logits, y))
            if task.hits is not None:
                hits.append(task.hits(logits, y))
    loss = float(torch.cat(losses).mean())
    if not hits:
        unknown = np.full(population.size, np.nan)
        return Evaluation(loss=loss, accuracy=None, personal=unknown, source=NO_ACCURACY)
    hit = torch.cat(hits).cpu().numpy()
    personal, source = _personal(hit, population)
    return Evaluation(loss=loss, accuracy=float(hit.mean()), personal=personal, source=source)


def mean_losses(
    task: Task, params: Tree, population: Population, clients: Sequence[int], portion: int = 1000
) -> Tensor:
    """The mean loss of a model on the training examples of each of these clients [k].

    NaN for a client without examples.
    """
    train = population.dataset.train
    parts = [population.owned.of(client) for client in clients]
    counts = torch.tensor([len(part) for part in parts])
    rows, place = torch.cat(parts), torch.repeat_interleave(torch.arange(len(parts)), counts)
    sums = torch.zeros(len(parts))
    with torch.no_grad(), use_threads(count_cores()):
        for start in range(0, len(rows), portion):
            at = rows[start : start + portion].to(train.x.device)
            where = place[start : start + portion]
            logits = task.predict(params, population.dataset.ready(train.x[at]))
            sums.index_add_(0, where, task.loss_of(logits, train.y[at]).cpu())
    return sums / counts


def _personal(hit: NDArray[np.bool_], population: Population) -> tuple[NDArray[np.float64], str]:
    with np.errstate(invalid="ignore"):
        if population.own_tests is not None:
            counts = population.own_tests.counts().numpy()
            client = np.repeat(np.arange(population.size), counts)
            right = np.bincount(
                client, weights=hit[population.own_tests.rows.numpy()], minlength=population.size
            )
            return right / np.where(counts > 0, counts, np.nan), OWN_TESTS
        classes = population.dataset.num_classes
        y = population.dataset.test.y.cpu().numpy()
        tests = np.bincount(y, minlength=classes)
        by_class = np.bincount(y, weights=hit, minlength=classes) / np.maximum(tests, 1)
        # Only classes of which the test set has examples count in a client's weights.
        labels = population.label_counts() * (tests > 0)
        total = labels.sum(axis=1)
        return (labels @ by_class) / np.where(total > 0, total, np.nan), LABEL_MATCHED


def spread(personal: NDArray[np.float64]) -> dict[str, object]:
    """Summarise accuracy over clients: mean, std, the mean of the worst tenth, and deciles."""
    known = np.sort(personal[np.isfinite(personal)])
    if not len(known):
        return {}
    worst = known[: max(1, len(known) // 10)]
    deciles = np.quantile(known, np.linspace(0, 1, 11))
    return {
        "clients": len(known),
        "mean": float(known.mean()),
        "std": float(known.std()),
        "worst_tenth": float(worst.mean()),
        "deciles": [float(value) for value in deciles],
    }
