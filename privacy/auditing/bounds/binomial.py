"""The binomial law, from logarithms: what scipy.stats would take half a second to import for."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln, xlog1py, xlogy

from privacy.validate import Array


def pmf(k: Array, trials: int, probability: float) -> Array:
    """P(B = k) for each k in [0, trials]."""
    ways = gammaln(trials + 1) - gammaln(k + 1) - gammaln(trials - k + 1)
    return np.asarray(np.exp(ways + xlogy(k, probability) + xlog1py(trials - k, -probability)))
