"""One perturbation that fools a classifier on everybody's images, found by asking it alone.

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

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.errors import InputError, at_least, positive
from fedsim.core.rng import Purpose, numpy_stream
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.data import fashion_mnist
from fedsim.models.black_box.problem import Problem, black_box, unread
from fedsim.models.black_box.trained import trained
from fedsim.models.vision import lenet
from fedsim.world import partition

_SHOWN = 12_000  # training images that the network gets to see
_EPOCHS, _LR = 3, 2e-3


def attack(
    *,
    source: Source | None = None,
    population: int = 10,
    classes: int = 2,
    images: int = 15,
    reach: float = 0.3,
    seed: int = 0,
) -> Problem:
    """A universal perturbation of 28x28 images. Hits are images whose class the network misses.

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
    at_least(
        "attack", 1, "Use 10, 2 and 15.", population=population, classes=classes, images=images
    )
    positive("attack", "Use 0.3.", reach=reach)
    chosen = fashion_mnist() if source is None else source
    name = f"attack({chosen.name}, reach={reach:g})"

    def victim(dataset: Dataset) -> tuple[nn.Module, Tree]:
        build, train = partial(lenet, dataset.num_classes), dataset.train
        x = dataset.ready(train.x[:_SHOWN])
        return trained(build, x, train.y[:_SHOWN], epochs=_EPOCHS, lr=_LR, seed=seed)

    def load(data_dir: Path | None) -> Dataset:
        dataset = chosen.load(data_dir)
        model, weights = victim(dataset)
        with torch.no_grad():
            logits = functional_call(model, weights, (dataset.ready(dataset.test.x),))
        right = (logits.argmax(dim=1) == dataset.test.y).numpy()
        rows = _deal(right, dataset, population, classes, images, seed)
        pixels = dataset.test.x[rows]
        x = pixels / 255 if pixels.dtype == torch.uint8 else pixels
        owners = np.repeat([f"{i:04d}" for i in range(population)], images)
        examples = Examples(x, dataset.test.y[rows])
        return Dataset(
            name=name,
            train=examples,
            test=examples,
            num_classes=dataset.num_classes,
            train_owners=owners,
            test_owners=owners,
        )

    def prepare(data_dir: Path | None) -> Task:
        dataset = chosen.load(data_dir)
        model, weights = victim(dataset)
        scale = dataset.scale

        def ask(params: Tree, x: Tensor) -> Tensor:
            moved = x + reach * (2 * params["x"] - 1).reshape(x.shape[1:])
            shown = moved.clamp(0, 1)
            scaled = shown if scale is None else scale(255 * shown)
            held = {name: weight.to(x.device) for name, weight in weights.items()}
            logits: Tensor = functional_call(model, held, (scaled,))
            return logits

        def start(seed: int) -> Tree:
            return {"x": torch.full((28 * 28,), 0.5)}

        return black_box(name, ask=ask, start=start, value=margin, hits=fooled)

    return Problem(
        data=Source(name=name, load=load),
        split=partition.natural(),
        task=unread(name, prepare),
        population=population,
        examples=images,
        floor=0.0,
    )


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """How far the right class leads the others, [b]; 0 where it does not."""
    right = logits.gather(1, y.unsqueeze(1))
    own = torch.nn.functional.one_hot(y, logits.shape[1]).to(torch.bool)
    rest = logits.masked_fill(own, -torch.inf).amax(dim=1)
    return (right.squeeze(1) - rest).clamp(min=0)


def fooled(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the network answers anything but y, [b]."""
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
                    f"attack: images must be few enough for {dataset.name}; got {images} for each "
                    f"of {population} clients. Use fewer."
                )
            dealt.append(pool.pop())
    return torch.tensor(dealt)
