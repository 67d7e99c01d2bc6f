"""Scikit-learn's digits: 1,797 images of 8x8, always there, no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.rng import Purpose, numpy_stream


def digits(*, test_share: float = 0.2) -> Source:
    """The digits; a fixed random fifth of them is the test set."""

    def load(data_dir: Path | None) -> Dataset:
        from sklearn.datasets import load_digits  # takes a second, and few runs need it

        x, y = load_digits(return_X_y=True)
        order = numpy_stream(0, Purpose.DATA).permutation(len(y))
        x = torch.from_numpy((x[order] / 16).astype(np.float32))
        y = torch.from_numpy(y[order].astype(np.int64))
        cut = round(len(y) * test_share)
        return Dataset(
            name="digits",
            train=Examples(x[cut:], y[cut:]),
            test=Examples(x[:cut], y[:cut]),
            num_classes=10,
        )

    return Source(name="digits", load=load)
