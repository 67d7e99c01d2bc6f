"""What a scenario does not say: the seed, and where and how a run is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedsim.core.machine import Precision

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a scenario does not say: the seed, and where and how it runs.

    width: how many clients train as one program; None lets the machine choose.
    workers: how many processes train; 1 is this one alone; None lets the machine choose.
    precision: of the clients' arithmetic; TF32 wants a GPU, and bf16 one or a recent CPU.
    """

    seed: int = 1
    device: Device = "auto"
    width: int | None = None
    workers: int | None = None
    precision: Precision = "float32"
    data_dir: Path | None = None
