"""A small encoder, and a small dataset of short texts for it."""

import numpy as np
import torch

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.models.transformer import encoder


def small(num_classes=3, length=6):
    return encoder(vocabulary=30, num_classes=num_classes, length=length, width=8, heads=2)


def sentences(calls=None):
    """Texts whose label is which of two words they have."""

    def load(data_dir):
        if calls is not None:
            calls.append(1)
        draw = np.random.default_rng(0)
        x, y = draw.integers(5, 30, (400, 6)), draw.integers(2, size=400)
        x[:, 0] = 3 + y
        x[::2, 4:] = 0
        part = Examples(torch.from_numpy(x), torch.from_numpy(y))
        return Dataset(name="sentences", train=part, test=part, num_classes=2)

    return Source(name="sentences", load=load)
