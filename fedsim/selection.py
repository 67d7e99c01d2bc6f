"""Selection: who takes part in a round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.types import Selection


def uniform() -> Selection:
    """A cohort of exactly the asked size, each set of clients equally likely."""

    def choose(
        population: int, cohort: int, round_num: int, stream: np.random.Generator
    ) -> Sequence[int]:
        chosen: list[int] = np.sort(stream.choice(population, cohort, replace=False)).tolist()
        return chosen

    return Selection(name="uniform", sampling="fixed size, without replacement", choose=choose)


def poisson() -> Selection:
    """Each client takes part by itself with probability cohort / population; it may be nobody."""

    def choose(
        population: int, cohort: int, round_num: int, stream: np.random.Generator
    ) -> Sequence[int]:
        chosen: list[int] = np.flatnonzero(stream.random(population) < cohort / population).tolist()
        return chosen

    return Selection(name="poisson", sampling="Poisson", choose=choose)
