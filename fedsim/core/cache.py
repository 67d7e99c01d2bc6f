"""A cache of derived arrays on disk. Deleting it costs time and changes no result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def cache_folder() -> Path:
    """The folder of the cache: FEDSIM_CACHE, or fedsim/ in the user's cache folder."""
    chosen = os.environ.get("FEDSIM_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(chosen) if chosen else Path(base).expanduser() / "fedsim"
    path.mkdir(parents=True, exist_ok=True)
    return path


def cached(
    kind: str, key: str, build: Callable[[], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """The stored result of `build()` for this key, or a new one. Damaged files are rebuilt."""
    path = cache_folder() / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    with suppress(Exception):  # absent, or damaged in any way
        return read_npz(path)
    arrays = build()
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    with partial.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    partial.replace(path)
    return arrays


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file; for a broken one, any error of NumPy, zipfile or zlib."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
