"""MedMNIST v2: small medical images, from the publisher's npz files.

Source: Yang et al. (2023), "MedMNIST v2", Scientific Data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fedsim.core.cache import read_npz
from fedsim.core.dataset import Dataset, Examples, Scale, Source
from fedsim.core.errors import unknown
from fedsim.data.files import corrupt_file, find_folder, missing_file

_CLASSES = {"breastmnist": 2, "pneumoniamnist": 2, "retinamnist": 5}


def medmnist(name: str) -> Source:
    """One MedMNIST set (breastmnist, pneumoniamnist, retinamnist); validation images are left out.

    Raises:
        InputError: the name is not one of these.
    """
    if name not in _CLASSES:
        raise unknown("medmnist", "name", name, _CLASSES)

    def load(data_dir: Path | None) -> Dataset:
        path = find_folder(name, data_dir, "medmnist") / f"{name}.npz"
        expected = "an npz file with {train,test}_{images,labels}"
        if not path.is_file():
            raise missing_file(name, path, expected)
        parts: dict[str, Examples] = {}
        try:
            arrays = read_npz(path)
            for part in ("train", "test"):
                images = torch.from_numpy(arrays[f"{part}_images"])
                x = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
                y = torch.from_numpy(arrays[f"{part}_labels"].astype(np.int64))
                parts[part] = Examples(x.contiguous(), y.reshape(-1))
        except Exception as error:  # a damaged zip raises anything
            raise corrupt_file(name, path, expected, f"{type(error).__name__}: {error}") from error
        channels = parts["train"].x.shape[1]
        return Dataset(
            name=name,
            train=parts["train"],
            test=parts["test"],
            num_classes=_CLASSES[name],
            scale=Scale(mean=(0.5,) * channels, std=(0.25,) * channels),
        )

    return Source(name=name, load=load)
