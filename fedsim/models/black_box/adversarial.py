"""A universal adversarial perturbation: one that fools a classifier on all clients' images.

Source: the setting of Shu, Lin, Dai, Low (2023), arXiv:2308.04077, section 6.2, with a small
convolutional network that is trained here.

Box, for client i with images X_i, all of which the network gets right:
    image'  = clip(image + reach (2 x - 1), 0, 1)
    f_i(x)  = mean over X_i of max(0, logit of the right class - largest other logit)
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.core.dataset import Dataset, Examples, Scale, Source
from fedsim.core.errors import InputError, at_least, positive
from fedsim.core.rng import Purpose, numpy_stream
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.data import fashion_mnist
from fedsim.models.black_box.problem import Problem, Query, black_box, deferred
from fedsim.models.black_box.training import train_classifier
from fedsim.models.vision import lenet
from fedsim.world import partition

_TRAINING_IMAGES = 12_000  # of the source, for the network
_EPOCHS, _LR = 3, 2e-3


def universal_perturbation(
    *,
    source: Source | None = None,
    population: int = 10,
    classes: int = 2,
    images: int = 15,
    reach: float = 0.3,
    seed: int = 0,
) -> Problem:
    """One perturbation of 28x28 images that fools a network. Hits are images it misclassifies.

    Args:
        source: grey 28x28 images; Fashion-MNIST if left out.
        population: N; client i has images of the classes i, i + 1, ...
        classes: how many classes a client has images of.
        images: of a client, dealt evenly over its classes.
        reach: the most that a pixel (0 to 1) may change.
        seed: of the network and of the choice of images.

    Raises:
        InputError: a number is below 1, or reach is not above 0.

    Guarantees:
        Every client has as many images, all of which the network gets right unperturbed.
    """
    who = "universal_perturbation"
    at_least(who, 1, "Use 10, 2 and 15.", population=population, classes=classes, images=images)
    positive(who, "Use 0.3.", reach=reach)
    chosen = fashion_mnist() if source is None else source
    name = f"attack({chosen.name}, reach={reach:g})"  # in data fingerprints of older runs

    def load(data_dir: Path | None) -> Dataset:
        dataset = chosen.load(data_dir)
        model, weights = _train_network(dataset, seed)
        with torch.no_grad():
            logits = functional_call(model, weights, (dataset.ready(dataset.test.x),))
        right = (logits.argmax(dim=1) == dataset.test.y).numpy()
        rows = _deal(right, dataset, population, classes, images, seed)
        owners = np.repeat([f"{i:04d}" for i in range(population)], images)
        return _owned(name, dataset, rows, owners)

    def prepare(data_dir: Path | None) -> Task:
        dataset = chosen.load(data_dir)
        model, weights = _train_network(dataset, seed)
        query = _perturbed(model, weights, dataset.scale, reach)
        return black_box(name, query=query, start=_unperturbed, value=margin, hits=fooled)

    return Problem(
        data=Source(name=name, load=load),
        split=partition.natural(),
        task=deferred(name, prepare),
        population=population,
        examples=images,
        floor=0.0,
    )


def _train_network(dataset: Dataset, seed: int) -> tuple[nn.Module, Tree]:
    build, train = partial(lenet, dataset.num_classes), dataset.train
    x = dataset.ready(train.x[:_TRAINING_IMAGES])
    y = train.y[:_TRAINING_IMAGES]
    return train_classifier(build, x, y, epochs=_EPOCHS, lr=_LR, seed=seed)


def _owned(name: str, dataset: Dataset, rows: Tensor, owners: NDArray[np.str_]) -> Dataset:
    """The test images `rows`, pixels in [0, 1], as training and test examples of their owners."""
    pixels = dataset.test.x[rows]
    x = pixels / 255 if pixels.dtype == torch.uint8 else pixels
    examples = Examples(x, dataset.test.y[rows])
    return Dataset(
        name=name,
        train=examples,
        test=examples,
        num_classes=dataset.num_classes,
        train_owners=owners,
        test_owners=owners,
    )


def _perturbed(model: nn.Module, weights: Tree, scale: Scale | None, reach: float) -> Query:
    """The network's logits on images perturbed by at most `reach`."""

    def query(params: Tree, x: Tensor) -> Tensor:
        moved = x + reach * (2 * params["x"] - 1).reshape(x.shape[1:])
        shown = moved.clamp(0, 1)
        scaled = shown if scale is None else scale(255 * shown)
        held = {name: weight.to(x.device) for name, weight in weights.items()}
        logits: Tensor = functional_call(model, held, (scaled,))
        return logits

    return query


def _unperturbed(seed: int) -> Tree:
    return {"x": torch.full((28 * 28,), 0.5)}  # the middle of the box: no change


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """How far the right class leads the others, [b]; 0 where it does not."""
    right = logits.gather(1, y.unsqueeze(1))
    own = torch.nn.functional.one_hot(y, logits.shape[1]).to(torch.bool)
    rest = logits.masked_fill(own, -torch.inf).amax(dim=1)
    return (right.squeeze(1) - rest).clamp(min=0)


def fooled(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the network predicts another class than y, [b]."""
    return logits.argmax(dim=1) != y


def _deal(
    right: NDArray[np.bool_],
    dataset: Dataset,
    population: int,
    classes: int,
    images: int,
    seed: int,
) -> Tensor:
    """Which test images each client gets, one after the other [population * images]."""
    y, count = dataset.test.y.numpy(), dataset.num_classes
    draw = numpy_stream(seed, Purpose.SPLIT)
    pools = [
        draw.permutation(np.flatnonzero(right & (y == label))).tolist() for label in range(count)
    ]
    dealt = []
    for client in range(population):
        for number in range(images):
            pool = pools[(client + number % classes) % count]
            if not pool:
                raise InputError(
                    f"universal_perturbation: images must be few enough for {dataset.name}; "
                    f"got {images} for each of {population} clients. Use fewer."
                )
            dealt.append(pool.pop())
    return torch.tensor(dealt)
