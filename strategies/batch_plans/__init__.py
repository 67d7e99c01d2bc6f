"""Batch plans: in what order clients see their examples. One plan, one file.

shuffled_epochs   whole passes in random order
ordered_epochs    whole passes, always in the same order
random_batches    a fixed number of steps, drawn with replacement
poisson_batches   a fixed number of steps, every example drawn independently
data_curriculum   easy examples first
"""

from strategies.batch_plans.data_curriculum import data_curriculum
from strategies.batch_plans.ordered_epochs import ordered_epochs
from strategies.batch_plans.poisson_batches import poisson_batches
from strategies.batch_plans.random_batches import random_batches
from strategies.batch_plans.shuffled_epochs import shuffled_epochs

__all__ = [
    "data_curriculum",
    "ordered_epochs",
    "poisson_batches",
    "random_batches",
    "shuffled_epochs",
]
