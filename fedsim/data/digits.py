"""Scikit-learn's digits: 1,797 images of 8x8, without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.rng import Purpose, numpy_stream


def digits(*, test_share: float = 0.2) -> Source:
    """The digits; a fixed random share of them is the test set."""

    def load(data_dir: Path | None) -> Dataset:
        table = read_table()
        order = numpy_stream(0, Purpose.DATA).permutation(len(table))
        x = torch.from_numpy((table[order, :-1] / 16).astype(np.float32))
        y = torch.from_numpy(table[order, -1].astype(np.int64))
        cut = round(len(table) * test_share)
        return Dataset(
            name="digits",
            train=Examples(x[cut:], y[cut:]),
            test=Examples(x[:cut], y[:cut]),
            num_classes=10,
        )

    return Source(name="digits", load=load)


def read_table() -> NDArray[np.float64]:
    """The table that scikit-learn ships, [1797, 65]: 64 grey values of 0 to 16, and the digit.

    The file is read without scikit-learn, whose import takes longer than a short run.
    """
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is a dependency"
    assert package.origin is not None
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    return np.loadtxt(file, delimiter=",")
