"""UCI Adult: does a person of the 1994 census earn more than 50,000 dollars a year?

Format: one person a line, 14 attributes and the answer, split by a comma and a space; `?` is
missing. In adult.test the first line is a comment and answers end in a full stop.

Numbers are standardised by the training set's mean and deviation; categories are one-hot encoded in
alphabetical order, `?` being one of them. A person's natural owner is the kind of employer
(workclass).

Source: Kohavi (1996), "Scaling Up the Accuracy of Naive-Bayes Classifiers: a Decision-Tree Hybrid".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.data.files import corrupt_file, find_folder, read_bytes

COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
)
_NUMBERS = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
_ANSWERS = {"<=50K": 0, ">50K": 1}

Table = NDArray[np.str_]
"""Persons by attributes and the answer, [n, 15], as text."""


def adult() -> Source:
    """UCI Adult: 32,561 + 16,281 persons, 108 columns, two classes, owned by kind of employer."""
    return Source(name="adult", load=_load)


def _load(data_dir: Path | None) -> Dataset:
    path = find_folder("adult", data_dir, "adult")
    train, test = read_table(path / "adult.data"), read_table(path / "adult.test")
    numbers = {name: _column(train, name).astype(np.float64) for name in _NUMBERS}
    scales = {name: (values.mean(), values.std() or 1.0) for name, values in numbers.items()}
    words = {name: np.unique(_column(train, name)) for name in COLUMNS if name not in _NUMBERS}

    def encode(table: Table) -> Examples:
        parts = []
        for name in COLUMNS:
            if name in scales:
                mean, std = scales[name]
                parts.append((_column(table, name).astype(np.float64)[:, None] - mean) / std)
            else:
                parts.append(_column(table, name)[:, None] == words[name])
        x = np.concatenate(parts, axis=1).astype(np.float32)
        y = (table[:, -1] == ">50K").astype(np.int64)
        return Examples(torch.from_numpy(x), torch.from_numpy(y))

    return Dataset(
        name="adult",
        train=encode(train),
        test=encode(test),
        num_classes=2,
        train_owners=_column(train, "workclass"),
        test_owners=_column(test, "workclass"),
    )


def _column(table: Table, name: str) -> Table:
    return table[:, COLUMNS.index(name)]


def read_table(path: Path) -> Table:
    """Read the persons of one file, without the full stop after answers.

    Raises:
        InputError: the file is missing, or a line is not 14 attributes and an answer.
    """
    expected = "a text file of 14 attributes and an answer a line"
    text = read_bytes("adult", path, expected).decode("latin-1")
    rows: list[list[str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("|"):
            continue
        row = line.strip().removesuffix(".").split(", ")
        if not _is_valid(row):
            raise corrupt_file("adult", path, expected, f"{line[:60]!r} in line {number}")
        rows.append(row)
    if not rows:
        raise corrupt_file("adult", path, expected, "no such line")
    return np.array(rows)


def _is_valid(row: list[str]) -> bool:
    if len(row) != len(COLUMNS) + 1 or row[-1] not in _ANSWERS:
        return False
    return all(row[COLUMNS.index(name)].isdigit() for name in _NUMBERS)
