"""CIFAR-10, from the hub's parquet files or the original `cifar-10-batches-py` pickles."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.core.cache import cached
from fedsim.core.dataset import Dataset, Examples, Scale, Source
from fedsim.data.files import corrupt_file, find_folder, hash_files, missing_file, read_images

_WHO = "cifar10"
_PARTS = [f"data_batch_{number}" for number in range(1, 6)]


def cifar10() -> Source:
    """CIFAR-10: 50,000 + 10,000 colour 32x32 images, 10 classes."""

    def load(data_dir: Path | None) -> Dataset:
        path = find_folder(_WHO, data_dir, "cifar10")
        batches = path / "cifar-10-batches-py"
        train, test = _from_pickles(batches) if batches.is_dir() else _from_parquet(path)
        return Dataset(
            name="cifar10",
            train=train,
            test=test,
            num_classes=10,
            scale=Scale(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        )

    return Source(name="cifar10", load=load)


def _examples(path: Path, x: NDArray[np.uint8], y: NDArray[Any], count: int) -> Examples:
    if x.shape != (count, 3, 32, 32) or y.shape != (count,):
        raise corrupt_file(_WHO, path, f"{count} images of 32x32x3 with labels", f"shape {x.shape}")
    return Examples(torch.from_numpy(x), torch.from_numpy(y.astype(np.int64)))


def _from_parquet(path: Path) -> tuple[Examples, Examples]:
    train, test = sorted(path.glob("train-*.parquet")), sorted(path.glob("test-*.parquet"))
    if not train or not test:
        raise missing_file(
            _WHO, path / "train-*.parquet", "the hub's parquet files, train and test"
        )

    def decode() -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for part, paths in (("train", train), ("test", test)):
            images, values = read_images(_WHO, paths, "img", ["label"])
            arrays[f"{part}_x"] = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
            arrays[f"{part}_y"] = np.array(values["label"])
        return arrays

    arrays = cached("cifar10", hash_files([*train, *test]), decode)
    return (
        _examples(train[0], arrays["train_x"], arrays["train_y"], 50_000),
        _examples(test[0], arrays["test_x"], arrays["test_y"], 10_000),
    )


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled arrays and refuses everything else: a pickle can run any code."""

    allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name, where it is one an array needs."""
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return super().find_class(module, name)


def _from_pickles(path: Path) -> tuple[Examples, Examples]:
    def part(name: str) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        file = path / name
        expected = "a pickled batch with b'data' (10,000 x 3,072 bytes) and b'labels'"
        if not file.is_file():
            raise missing_file(_WHO, file, expected)
        try:
            with file.open("rb") as stream:
                batch = _ArraysOnly(stream, encoding="bytes").load()
            pixels = np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
            return pixels, np.asarray(batch[b"labels"])
        except Exception as error:  # a damaged pickle raises anything
            raise corrupt_file(_WHO, file, expected, f"{type(error).__name__}: {error}") from error

    xs, ys = zip(*(part(name) for name in _PARTS), strict=True)
    test_x, test_y = part("test_batch")
    return (
        _examples(path, np.concatenate(xs), np.concatenate(ys), 50_000),
        _examples(path, test_x, test_y, 10_000),
    )
