"""Derived arrays on disk, made once: a shortcut and never a source of truth."""

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
    """Where derived files go: FEDSIM_CACHE, or the user's cache folder."""
    chosen = os.environ.get("FEDSIM_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(chosen) if chosen else Path(base).expanduser() / "fedsim"
    path.mkdir(parents=True, exist_ok=True)
    return path


def cached(
    kind: str, key: str, build: Callable[[], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """`build()`, or what it gave before for the same key. A damaged cache file is built anew."""
    path = cache_folder() / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    with suppress(Exception):  # absent or damaged in any way: the cache is only ever a shortcut
        return read_npz(path)
    arrays = build()
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    with partial.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    partial.replace(path)
    return arrays


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file; raises whatever NumPy, zipfile and zlib do for a broken one."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
