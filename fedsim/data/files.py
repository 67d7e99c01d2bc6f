"""Find, read and check data files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.core.errors import InputError

if TYPE_CHECKING:  # few datasets are parquet files, and the library takes a while to import
    import pyarrow as pa


def find_folder(who: str, data_dir: Path | None, name: str) -> Path:
    """Find the folder `name` of the data folder.

    Raises:
        InputError: no data folder was given, or it has no such folder.
    """
    if data_dir is None:
        raise InputError(
            f"{who}: --data-dir must be given; got none. "
            f"Point it (or FEDSIM_DATA) at the folder that holds {name}/."
        )
    path = data_dir / name
    if not path.is_dir():
        raise InputError(
            f"{who}: --data-dir must be a folder that holds {name}/; got {str(data_dir)!r}. "
            f"Put the published files into {path}."
        )
    return path


def missing_file(who: str, path: Path, expected: str) -> InputError:
    """The error for a missing file (returned, not raised)."""
    return InputError(f"{who}: {path} must be {expected}; got no such file. Put it there.")


def corrupt_file(who: str, path: Path, expected: str, got: str) -> InputError:
    """The error for a file that differs from the published one (returned, not raised)."""
    return InputError(f"{who}: {path} must be {expected}; got {got}. Fetch the file anew.")


def read_bytes(who: str, path: Path, expected: str) -> bytes:
    """Read the content of a file.

    Raises:
        InputError: it does not exist.
    """
    if not path.is_file():
        raise missing_file(who, path, expected)
    return path.read_bytes()


def read_parquet(who: str, path: Path, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a parquet file.

    Raises:
        InputError: the file does not exist, is broken or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = f"a parquet file with the columns {', '.join(columns)}"
    if not path.is_file():
        raise missing_file(who, path, expected)
    try:
        return pq.read_table(path, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise corrupt_file(who, path, expected, str(error).splitlines()[0]) from error


def read_images(
    who: str, paths: Sequence[Path], images: str, others: Sequence[str]
) -> tuple[NDArray[np.uint8], dict[str, list[Any]]]:
    """Read the images in one column of some parquet files, and the values of other columns.

    Returns:
        uint8 [n, height, width(, channels)], and column -> n values.

    Raises:
        InputError: a file is broken, lacks a column, or has an image that cannot be decoded or is
            of another size than the first.
    """
    stacks: list[NDArray[np.uint8]] = []
    values: dict[str, list[Any]] = {name: [] for name in others}
    for path in paths:
        table = read_parquet(who, path, [images, *others])
        encoded = [row["bytes"] for row in table.column(images).to_pylist()]
        stacks.append(_decode(who, path, encoded))
        if stacks[-1].shape[1:] != stacks[0].shape[1:]:
            size, other = stacks[0].shape[1:], stacks[-1].shape[1:]
            raise corrupt_file(who, path, f"a table of images of shape {size}", f"{other}")
        for name in others:
            values[name] += table.column(name).to_pylist()
    return np.concatenate(stacks), values


def _decode(who: str, path: Path, encoded: Sequence[bytes]) -> NDArray[np.uint8]:
    from PIL import Image

    images: list[NDArray[np.uint8]] = []
    if not encoded:
        raise corrupt_file(who, path, "a table of images", "no rows")
    for number, content in enumerate(encoded):
        try:
            images.append(np.asarray(Image.open(io.BytesIO(content))))
        except Exception as error:  # a decoder raises anything for a broken image
            raise corrupt_file(
                who, path, "a table of images", f"no image in row {number}"
            ) from error
        if images[-1].shape != images[0].shape:
            raise corrupt_file(
                who, path, f"images of shape {images[0].shape}", f"{images[-1].shape} in {number}"
            )
    return np.stack(images)


def hash_files(paths: Sequence[Path]) -> str:
    """The SHA-256 over the contents of some files."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
