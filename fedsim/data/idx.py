"""MNIST and Fashion-MNIST in the idx format of their publishers (gzip).

Format: two zero bytes, a type byte (8: unsigned byte), the number of dimensions, each dimension as
a big-endian 32-bit integer, then the values in C order. Source: LeCun, Cortes, Burges (1998).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.core.dataset import Dataset, Examples, Scale, Source
from fedsim.data.files import corrupt_file, find_folder, read_bytes


def fashion_mnist() -> Source:
    """Fashion-MNIST: 60,000 + 10,000 grey 28x28 images of clothes, 10 classes."""
    return _source("fashion_mnist", Scale(mean=(0.2860,), std=(0.3530,)))


def mnist() -> Source:
    """MNIST: 60,000 + 10,000 grey 28x28 images of digits, 10 classes."""
    return _source("mnist", Scale(mean=(0.1307,), std=(0.3081,)))


def _source(name: str, scale: Scale) -> Source:
    def load(data_dir: Path | None) -> Dataset:
        path = find_folder(name, data_dir, name)
        return Dataset(
            name=name,
            train=_examples(name, path, "train", 60_000),
            test=_examples(name, path, "t10k", 10_000),
            num_classes=10,
            scale=scale,
        )

    return Source(name=name, load=load)


def _examples(who: str, path: Path, part: str, count: int) -> Examples:
    images = read_idx(who, path / f"{part}-images-idx3-ubyte.gz", (count, 28, 28))
    labels = read_idx(who, path / f"{part}-labels-idx1-ubyte.gz", (count,))
    return Examples(
        torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))
    )


def read_idx(who: str, path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read the array in one gzipped idx file.

    Raises:
        InputError: the file is missing, is no gzip file, is truncated, or holds another shape.
    """
    expected = f"a gzipped idx file of unsigned bytes with shape {shape}"
    packed = read_bytes(who, path, expected)
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise corrupt_file(who, path, expected, f"broken gzip ({error})") from error
    header = 4 + 4 * len(shape)
    if len(content) < header or content[:4] != bytes((0, 0, 8, len(shape))):
        raise corrupt_file(who, path, expected, f"a header that starts {content[:4].hex(' ')}")
    found = struct.unpack(f">{len(shape)}I", content[4:header])
    if found != shape or len(content) - header != int(np.prod(shape)):
        raise corrupt_file(who, path, expected, f"shape {found} and {len(content) - header} bytes")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
