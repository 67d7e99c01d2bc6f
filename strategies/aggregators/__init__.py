"""Aggregators: how the server combines the clients' updates. One rule, one file.

mean                   weighted by examples, or uniform
public_mean            the mean with a public denominator, for client-level privacy
robust                 Byzantine-robust rules: coordinate_median, trimmed_mean, krum, multi_krum,
                       nearest_neighbours
principal_directions   the server half of FedLD
"""

from strategies.aggregators.mean import mean
from strategies.aggregators.principal_directions import principal_directions
from strategies.aggregators.public_mean import public_mean
from strategies.aggregators.robust import (
    coordinate_median,
    krum,
    multi_krum,
    nearest_neighbours,
    trimmed_mean,
)

__all__ = [
    "coordinate_median",
    "krum",
    "mean",
    "multi_krum",
    "nearest_neighbours",
    "principal_directions",
    "public_mean",
    "trimmed_mean",
]
