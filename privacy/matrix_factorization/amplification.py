"""Amplification by sampling for banded strategies: Poisson sampling within groups that take turns.

    split the population into p fixed groups, p the number of bands of C
    at time t every member of group t mod p takes part independently with probability q = p m / N

A unit's participations are then p rounds apart, where columns of C do not overlap. So the run
is at most ceil(n / p) separate Poisson-sampled Gaussian mechanisms for it.

Source
    Choquette-Choo et al. "(Amplified) Banded Matrix Factorization: A Unified Approach to Private
    Training". NeurIPS 2023. arXiv:2306.08153, Algorithm 2 and Theorem 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from privacy.validate import refusal, whole_numbers


@dataclass(frozen=True)
class GroupPoisson:
    """Which clients may take part when, and the event that an accountant composes.

    The event of the whole run: `compositions` times the Poisson-sampled Gaussian with
    `sampling_prob` and the noise multiplier over the largest norm of a column of C.
    """

    bands: int
    population: int
    rounds: int
    sampling_prob: float
    compositions: int

    def members(self, t: int) -> range:
        """The clients of the group of time t (from 0), each of which is sampled independently."""
        return range(t % self.bands, self.population, self.bands)


def group_poisson(*, bands: int, population: int, cohort: int, rounds: int) -> GroupPoisson:
    """Make the sampling under which a strategy with `bands` bands is amplified.

    Args:
        bands: p, at most `rounds`.
        population: N.
        cohort: m, the expected number of clients a round; p m <= N.
        rounds: n.

    Raises:
        PrivacyError: a value is out of its range.

    Guarantees:
        A client is in the group of one time of every p.
        One band is plain Poisson sampling with probability m / N.
    """
    whole_numbers("group_poisson", "State all of them.", bands=bands, population=population)
    whole_numbers("group_poisson", "State all of them.", cohort=cohort, rounds=rounds)
    whole_numbers("group_poisson", "Use fewer.", up_to=rounds, bands=bands)
    if bands * cohort > population:
        rule = f"at most the population of {population}"
        raise refusal("group_poisson", "bands * cohort", rule, bands * cohort, "Use fewer bands.")
    return GroupPoisson(
        bands=bands,
        population=population,
        rounds=rounds,
        sampling_prob=bands * cohort / population,
        compositions=math.ceil(rounds / bands),
    )
