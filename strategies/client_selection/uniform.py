"""Uniform selection: a cohort of fixed size, without replacement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.core.sampling import Draw, Sampling, Selection
from strategies.client_selection._memoryless import Memoryless, memoryless


def uniform() -> Selection[Memoryless]:
    """A cohort of exactly the given size, each set of clients equally likely."""

    def choose(state: Memoryless, draw: Draw) -> tuple[Sequence[int], Memoryless]:
        chosen = draw.stream.choice(draw.population, draw.cohort, replace=False)
        return np.sort(chosen).tolist(), state

    return memoryless(
        "uniform", Sampling(kind="fixed", words="fixed size, without replacement"), choose
    )
