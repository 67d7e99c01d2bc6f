"""FEMNIST: handwritten characters by writer, from parquet files or LEAF's JSON shards.

Source: Caldas et al. (2018), LEAF, arXiv:1812.01097.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.core.cache import cached
from fedsim.core.dataset import Dataset, Examples, Scale, Source
from fedsim.data.files import corrupt_file, find_folder, hash_files, missing_file, read_images

_WHO = "femnist"


def femnist() -> Source:
    """FEMNIST: 28x28 grey characters, 62 classes; each writer is a client with tests of its own."""

    def load(data_dir: Path | None) -> Dataset:
        path = find_folder(_WHO, data_dir, "femnist")
        arrays = _from_parquet(path) if any(path.glob("train-*.parquet")) else _from_leaf(path)
        return Dataset(
            name="femnist",
            train=_examples(arrays, "train"),
            test=_examples(arrays, "test"),
            num_classes=62,
            scale=Scale(mean=(0.9637,), std=(0.1591,)),
            train_owners=arrays["train_writer"],
            test_owners=arrays["test_writer"],
        )

    return Source(name="femnist", load=load)


def _examples(arrays: dict[str, NDArray[Any]], part: str) -> Examples:
    x = torch.from_numpy(arrays[f"{part}_x"]).unsqueeze(1)
    return Examples(x, torch.from_numpy(arrays[f"{part}_y"].astype(np.int64)))


def _from_parquet(path: Path) -> dict[str, NDArray[Any]]:
    parts = {part: sorted(path.glob(f"{part}-*.parquet")) for part in ("train", "test")}
    for part, paths in parts.items():
        if not paths:
            raise missing_file(_WHO, path / f"{part}-*.parquet", "a parquet file of characters")

    def decode() -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for part, paths in parts.items():
            images, values = read_images(_WHO, paths, "image", ["writer_id", "character"])
            arrays[f"{part}_x"] = images
            arrays[f"{part}_y"] = np.array(values["character"])
            arrays[f"{part}_writer"] = np.array(values["writer_id"], dtype=str)
        return arrays

    return cached("femnist", hash_files([*parts["train"], *parts["test"]]), decode)


def _from_leaf(path: Path) -> dict[str, NDArray[Any]]:
    root = path / "leaf_json" if (path / "leaf_json").is_dir() else path
    arrays: dict[str, NDArray[Any]] = {}
    for part in ("train", "test"):
        shards = sorted((root / part).glob("*.json"))
        if not shards:
            raise missing_file(_WHO, root / part / "*.json", "LEAF's shards, or parquet files")
        x: list[Any] = []
        y: list[int] = []
        writers: list[str] = []
        for shard in shards:
            try:
                content = json.loads(shard.read_text())
                for writer in content["users"]:
                    x.extend(content["user_data"][writer]["x"])
                    y.extend(content["user_data"][writer]["y"])
                    writers.extend([writer] * (len(y) - len(writers)))
            except (ValueError, KeyError, TypeError) as error:
                expected = "a LEAF shard with 'users' and 'user_data'"
                raise corrupt_file(
                    _WHO, shard, expected, f"{type(error).__name__}: {error}"
                ) from error
        pixels = np.asarray(x, dtype=np.float64).reshape(-1, 28, 28)
        arrays[f"{part}_x"] = np.rint(pixels * 255).astype(np.uint8)
        arrays[f"{part}_y"] = np.asarray(y)
        arrays[f"{part}_writer"] = np.array(writers, dtype=str)
    return arrays
