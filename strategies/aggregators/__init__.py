"""How bounded updates are combined: plain means and published rules."""

from strategies.aggregators.means import mean, public_mean
from strategies.aggregators.principal_directions import principal_directions
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
