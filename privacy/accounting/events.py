"""What accountants understand: one frozen record for each kind of release.

    event              neighbours differ by             what is claimed
    Gaussian           whatever its mu was made for     exactly mu-GDP
    PoissonGaussian    one unit zeroed out or added     amplified by sampling
    TruncatedPoisson   one unit zeroed out              amplified, and the cap paid for
    FixedSize          one unit replaced                amplified (Renyi, loose)
    PoissonReplace     one unit replaced                amplified by sampling
    Shuffled           one unit zeroed out              nothing for the shuffling: an interval
    Unsupported        -                                nothing

Every record checks itself: one that exists can be accounted.  A noise multiplier of exactly 0 says
"no noise", and is accounted as epsilon = inf.
"""

from __future__ import annotations

from dataclasses import dataclass

from privacy import validate


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Noise on a sum, once or more often, nothing amplified.

    Attributes:
        mu: sensitivity / noise_std of one release; 0 releases nothing, inf has no noise.
        count: number of releases.
    """

    mu: float
    count: int = 1

    def __post_init__(self) -> None:
        if not (validate.is_number(self.mu) and self.mu >= 0):
            raise validate.refusal(
                "Gaussian", "mu", ">= 0", self.mu, "Use sensitivity / noise_std."
            )
        validate.whole("Gaussian", "count", self.count)


@dataclass(frozen=True, kw_only=True)
class PoissonGaussian:
    """Every unit tosses its own coin in every step; noise on the sum.

    Attributes:
        sampling_prob: of one unit in one step.
        noise_multiplier: noise_std / clip_norm.
        count: number of steps.
        overflow: upper bound on the probability that a step's batch was cut short; by the union
            bound delta pays (1 + e^epsilon) * count * overflow for it.
    """

    sampling_prob: float
    noise_multiplier: float
    count: int
    overflow: float = 0.0

    def __post_init__(self) -> None:
        validate.probability("PoissonGaussian", "sampling_prob", self.sampling_prob)
        validate.noise("PoissonGaussian", self.noise_multiplier)
        validate.whole("PoissonGaussian", "count", self.count)
        validate.probability("PoissonGaussian", "overflow", self.overflow)


@dataclass(frozen=True, kw_only=True)
class TruncatedPoisson:
    """Poisson sampling of which a batch keeps a uniform subset of at most `cap` units.

    Attributes:
        sampling_prob: of one unit in one step, before the cap.
        noise_multiplier: noise_std / clip_norm.
        population: number of units, public.
        cap: the largest batch.
        count: number of steps.

    Source: arXiv:2508.15089, as dp-accounting has it.
    """

    sampling_prob: float
    noise_multiplier: float
    population: int
    cap: int
    count: int

    def __post_init__(self) -> None:
        validate.probability("TruncatedPoisson", "sampling_prob", self.sampling_prob)
        validate.noise("TruncatedPoisson", self.noise_multiplier)
        validate.whole("TruncatedPoisson", "population", self.population, 1)
        validate.whole("TruncatedPoisson", "cap", self.cap, 1)
        validate.whole("TruncatedPoisson", "count", self.count)


@dataclass(frozen=True, kw_only=True)
class FixedSize:
    """Exactly `cohort` units a step, drawn without replacement; a neighbour replaces one unit.

    Attributes:
        population: number of units, public.
        cohort: units in each step.
        noise_multiplier: noise_std / clip_norm; the sensitivity of 2 clip_norm is in the event.
        count: number of steps.
    """

    population: int
    cohort: int
    noise_multiplier: float
    count: int

    def __post_init__(self) -> None:
        validate.whole("FixedSize", "population", self.population, 1)
        validate.whole("FixedSize", "cohort", self.cohort)
        validate.at_most("FixedSize", "cohort", self.cohort, self.population, "population")
        validate.noise("FixedSize", self.noise_multiplier)
        validate.whole("FixedSize", "count", self.count)


@dataclass(frozen=True, kw_only=True)
class PoissonReplace:
    """Poisson sampling where a neighbour replaces one unit.

    Attributes:
        sampling_prob: of one unit in one step.
        noise_multiplier: noise_std / clip_norm; the sensitivity of 2 clip_norm is in the event.
        count: number of steps.
    """

    sampling_prob: float
    noise_multiplier: float
    count: int

    def __post_init__(self) -> None:
        validate.probability("PoissonReplace", "sampling_prob", self.sampling_prob)
        validate.noise("PoissonReplace", self.noise_multiplier)
        validate.whole("PoissonReplace", "count", self.count)


@dataclass(frozen=True, kw_only=True)
class Shuffled:
    """Epochs of shuffled batches: every unit once an epoch, at a place that is no secret.

    Attributes:
        noise_multiplier: noise_std / clip_norm.
        batches: steps in an epoch.
        epochs: how often every unit takes part.
    """

    noise_multiplier: float
    batches: int
    epochs: int

    def __post_init__(self) -> None:
        validate.noise("Shuffled", self.noise_multiplier)
        validate.whole("Shuffled", "batches", self.batches, 1)
        validate.whole("Shuffled", "epochs", self.epochs)


@dataclass(frozen=True, kw_only=True)
class Unsupported:
    """A release for which no guarantee is known.

    Attributes:
        reason: why, as a sentence for the person who wanted one.
    """

    reason: str


Event = (
    Gaussian
    | PoissonGaussian
    | TruncatedPoisson
    | FixedSize
    | PoissonReplace
    | Shuffled
    | Unsupported
)
