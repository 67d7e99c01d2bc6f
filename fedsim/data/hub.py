"""Labelled image or vector datasets of the Hugging Face hub, by name or from a local copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.core.dataset import Dataset, Examples, Scale, Source
from fedsim.core.errors import InputError


def hub(
    name: str,
    *,
    inputs: str | None = None,
    label: str | None = None,
    owner: str | None = None,
    train: str = "train",
    test: str = "test",
) -> Source:
    """A dataset that `datasets.load_dataset(name)` can read.

    Args:
        name: on the hub, for instance "ylecun/mnist", or the path of a local copy in parquet files.
        inputs: the column of images or vectors; found by its type when not given.
        label: the column of labels; found by its type or name when not given.
        owner: the column of natural owners, for natural splits.
        train: the name of the training split.
        test: the name of the test split.

    Raises:
        InputError: (from load) the dataset, a split or a column is not available.
    """

    def load(data_dir: Path | None) -> Dataset:
        splits = _fetch(name)
        for split in (train, test):
            if split not in splits:
                raise InputError(
                    f"hub: {name} must have a split {split!r}; got {', '.join(splits)}. "
                    "Name the splits with train= and test=."
                )
        features = splits[train].features
        column_x, column_y = inputs or _find_inputs(name, features), label or _find_label(features)
        for column in (column_x, column_y, owner):
            if column is not None and column not in features:
                raise InputError(
                    f"hub: {name} must have a column {column!r}; got {', '.join(features)}. "
                    "Name the columns with inputs=, label= and owner=."
                )
        parts = [_examples(name, splits[split], column_x, column_y) for split in (train, test)]
        owners = [
            None if owner is None else np.array(splits[split][owner], dtype=str)
            for split in (train, test)
        ]
        images = parts[0].x.dtype == torch.uint8
        channels = parts[0].x.shape[1]
        return Dataset(
            name=name,
            train=parts[0],
            test=parts[1],
            num_classes=_num_classes(features[column_y], parts),
            scale=Scale((0.5,) * channels, (0.25,) * channels) if images else None,
            train_owners=owners[0],
            test_owners=owners[1],
        )

    return Source(name=name, load=load)


def _fetch(name: str) -> Any:
    try:
        import datasets  # an extra, and slow to import
    except ImportError as error:
        raise InputError(
            "hub: datasets must be installed; got no such package. "
            "Install it with pip install 'fedsim-lab[hub]'."
        ) from error
    try:
        return datasets.load_dataset(name)
    except Exception as error:  # the library raises many kinds of errors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"hub: name must be a dataset that can be reached; got {name!r} ({reason}). "
            "Without a network, give the path of a local copy."
        ) from error


def _find_inputs(name: str, features: Any) -> str:
    for column, kind in features.items():
        if type(kind).__name__ in ("Image", "Array2D", "Array3D", "Sequence", "List"):
            return str(column)
    raise InputError(
        f"hub: {name} must have a column of images or vectors; got {', '.join(features)}. "
        "Name it with inputs=."
    )


def _find_label(features: Any) -> str:
    kinds = {column: type(kind).__name__ for column, kind in features.items()}
    return next((str(column) for column, kind in kinds.items() if kind == "ClassLabel"), "label")


def _num_classes(feature: Any, parts: list[Examples]) -> int:
    named: int | None = getattr(feature, "num_classes", None)
    return named or int(max(part.y.max() for part in parts)) + 1


def _examples(name: str, split: Any, column_x: str, column_y: str) -> Examples:
    rows: list[NDArray[Any]] = [np.asarray(value) for value in split[column_x]]
    try:
        x = torch.from_numpy(np.stack(rows))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"hub: {column_x} of {name} must be images or vectors of one size; got {error}. "
            "Make a copy with all of one size."
        ) from error
    try:
        y = torch.tensor(split[column_y], dtype=torch.int64)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"hub: {column_y} of {name} must be whole numbers; got {error}. "
            "Make it a ClassLabel, or name another column with label=."
        ) from error
    if y.min() < 0:
        raise InputError(
            f"hub: {column_y} of {name} must be labels from 0; got {int(y.min())}. "
            "Leave unlabelled rows out."
        )
    if x.dtype == torch.uint8:
        x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
    else:
        x = x.to(torch.float32)
    return Examples(x, y)
