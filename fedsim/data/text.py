"""Short texts to classify: SST-2 and AG News, from the hub's parquet files, as token ids.

The default tokenizer hashes words and needs no vocabulary: one that is counted on clients' texts
would be a release of their data that the privacy budget does not cover.

Source: Socher et al. (2013), SST; Wang et al. (2019), GLUE, arXiv:1804.07461; Zhang, Zhao, LeCun
(2015), AG News, arXiv:1509.01626. Hashing: Weinberger et al. (2009), arXiv:0902.2206.

Shapes: n texts, L tokens of a text.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.core.cache import cached
from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.errors import InputError, at_least, unknown
from fedsim.core.rng import Purpose, numpy_stream
from fedsim.data.files import corrupt_file, find_folder, hash_files, missing_file, read_parquet

Half = Literal["all", "public", "private"]
Files = Mapping[str, tuple[str, int | None]]
"""Part of a dataset -> the prefix of its files' names, and their number of rows if known."""

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Turns texts into token ids. read: n texts -> int32 [n, length], each below `vocabulary`.

    Every text has at least one token that is not `padding`. name: unique, it keys the cache.
    """

    name: str
    length: int
    vocabulary: int
    read: Callable[[Sequence[str]], NDArray[np.int32]]
    padding: int = 0


def hashed_words(*, length: int = 32, buckets: int = 1 << 14) -> Tokenizer:
    """Lower-cased words and punctuation, hashed (CRC-32) into buckets from 1; long texts are cut.

    The model cannot tell words of the same bucket apart.

    Raises:
        InputError: length is below 1, or buckets below 2.
    """
    at_least("hashed_words", 1, "Use 32 for SST-2, 64 for AG News.", length=length)
    at_least("hashed_words", 2, "Use 16384.", buckets=buckets)

    def read(texts: Sequence[str]) -> NDArray[np.int32]:
        ids = np.zeros((len(texts), length), np.int32)
        for row, text in enumerate(texts):
            words = _WORD.findall(text.lower())[:length] or [""]
            ids[row, : len(words)] = [1 + zlib.crc32(w.encode()) % (buckets - 1) for w in words]
        return ids

    return Tokenizer(
        name=f"hashed_words({length}, {buckets})", length=length, vocabulary=buckets, read=read
    )


def sst2(*, tokenizer: Tokenizer | None = None, half: Half = "all") -> Source:
    """SST-2: 67,349 phrases of film reviews and 872 sentences to test on, negative or positive.

    Args:
        tokenizer: hashed words of 32 tokens if left out.
        half: of the training phrases: all, or one of two fixed random halves, the public one to
            pretrain on. Phrases of one sentence may be in both halves.
    """
    files = {"train": ("train", 67_349), "test": ("validation", 872)}
    return _source("sst2", "sentence", 2, files, tokenizer or hashed_words(), half)


def ag_news(*, tokenizer: Tokenizer | None = None, half: Half = "all") -> Source:
    """AG News: titles and first lines of news in 4 classes; trains on all texts in the files.

    Args:
        tokenizer: hashed words of 64 tokens if left out.
        half: of the training texts: all, or one of two fixed random halves, the public one to
            pretrain on.
    """
    files = {"train": ("train", None), "test": ("test", 7_600)}
    return _source("ag_news", "text", 4, files, tokenizer or hashed_words(length=64), half)


def _source(
    name: str,
    column: str,
    num_classes: int,
    files: Files,
    tokenizer: Tokenizer,
    half: Half,
) -> Source:
    if half not in ("all", "public", "private"):
        raise unknown(name, "half", half, ("all", "public", "private"))

    def load(data_dir: Path | None) -> Dataset:
        path = find_folder(name, data_dir, name)
        paths = {
            part: sorted(path.glob(f"{start}-*.parquet")) for part, (start, _) in files.items()
        }
        for part, found in paths.items():
            if not found:
                pattern = path / f"{files[part][0]}-*.parquet"
                raise missing_file(name, pattern, "the hub's parquet file")

        def decode() -> dict[str, NDArray[Any]]:
            arrays: dict[str, NDArray[Any]] = {}
            for part, (_, count) in files.items():
                x, y = _read(name, paths[part], column, num_classes, count, tokenizer)
                arrays |= {f"{part}_x": x, f"{part}_y": y}
            return arrays

        key = hash_files([one for part in files for one in paths[part]]) + tokenizer.name
        arrays = cached(name, key, decode)
        train, test = (
            Examples(
                torch.from_numpy(arrays[f"{part}_x"].astype(np.int64)),
                torch.from_numpy(arrays[f"{part}_y"]),
            )
            for part in ("train", "test")
        )
        if half != "all":
            order = numpy_stream(0, Purpose.DATA).permutation(len(train.y))
            cut = len(order) // 2
            rows = torch.from_numpy(np.sort(order[:cut] if half == "public" else order[cut:]))
            train = Examples(train.x[rows], train.y[rows])
        title = name if half == "all" else f"{name}, {half} half"
        return Dataset(name=title, train=train, test=test, num_classes=num_classes)

    return Source(name=name if half == "all" else f"{name}_{half}", load=load)


def _read(
    who: str,
    paths: Sequence[Path],
    column: str,
    num_classes: int,
    count: int | None,
    tokenizer: Tokenizer,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    texts: list[Any] = []
    labels: list[Any] = []
    for path in paths:
        table = read_parquet(who, path, [column, "label"])
        texts += table.column(column).to_pylist()
        labels += table.column("label").to_pylist()
    legal = range(num_classes)
    expected = f"{count or 'some'} texts with labels from 0 to {num_classes - 1}"
    if len(texts) != (count or len(texts)) or not texts:
        raise corrupt_file(who, paths[0], expected, f"{len(texts)} rows")
    if not all(isinstance(text, str) for text in texts) or not all(y in legal for y in labels):
        raise corrupt_file(who, paths[0], expected, "a row without one")
    x = tokenizer.read(texts)
    if x.shape != (len(texts), tokenizer.length):
        raise InputError(
            f"{who}: tokenizer must give {tokenizer.length} tokens a text; got {x.shape}. "
            f"Mend {tokenizer.name}."
        )
    return x, np.asarray(labels, np.int64)
