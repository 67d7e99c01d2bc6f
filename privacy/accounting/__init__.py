"""What has been leaked, in (epsilon, delta) and as a trade-off curve."""

from privacy.accounting.calibration import calibrate
from privacy.accounting.composition import Report, account, epsilon, rdp_epsilon
from privacy.accounting.events import (
    Event,
    FixedSize,
    Gaussian,
    PoissonGaussian,
    PoissonReplace,
    Shuffled,
    TruncatedPoisson,
    Unsupported,
)

__all__ = [
    "Event",
    "FixedSize",
    "Gaussian",
    "PoissonGaussian",
    "PoissonReplace",
    "Report",
    "Shuffled",
    "TruncatedPoisson",
    "Unsupported",
    "account",
    "calibrate",
    "epsilon",
    "rdp_epsilon",
]
