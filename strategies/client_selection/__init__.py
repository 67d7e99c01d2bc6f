"""Who takes part in a round: plain and published selections."""

from strategies.client_selection.client_curriculum import client_curriculum
from strategies.client_selection.plain import cyclic, poisson, poisson_groups, uniform

__all__ = [
    "client_curriculum",
    "cyclic",
    "poisson",
    "poisson_groups",
    "uniform",
]
