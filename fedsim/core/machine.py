"""Cores, threads, memory and float precision of this machine."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2  # glibc's malloc.h


def keep_memory() -> None:
    """Ask the allocator to keep freed memory rather than give it back to the system.

    A step of a convolutional network allocates megabytes and frees them at once; taking them from
    the system anew costs a page fault for every 4 KiB, a quarter of such a step. Where the
    allocator is not glibc's, nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 1 << 25)
        mallopt(_TRIM_THRESHOLD, 1 << 30)
        mallopt(_TOP_PAD, 1 << 26)


Precision = Literal["float32", "tf32", "bf16"]


def set_precision(precision: Precision) -> None:
    """Let float32 matrix products and convolutions round to TF32, or forbid it.

    Only GPUs have TF32; elsewhere nothing changes. (bf16 is handled by the task, not here.)
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads within a `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def count_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory(process: int | None = None) -> int:
    """The peak resident memory of this process or of another one, in bytes.

    Pages that processes share (shared memory, libraries) are counted for this process only.
    Gives 0 for another process if the system does not say.
    """
    if process is None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    sizes = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    held, shared, mapped = (
        int(sizes.get(name, ["0"])[0]) * 1024 for name in ("VmHWM", "RssShmem", "RssFile")
    )
    return max(0, held - shared - mapped)
