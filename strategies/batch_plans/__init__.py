"""In what order clients see their examples: plain plans and data curricula."""

from strategies.batch_plans.data_curriculum import data_curriculum, keeping_last
from strategies.batch_plans.plain import (
    ordered_epochs,
    poisson_batches,
    random_batches,
    shuffled_epochs,
)

__all__ = [
    "data_curriculum",
    "keeping_last",
    "ordered_epochs",
    "poisson_batches",
    "random_batches",
    "shuffled_epochs",
]
