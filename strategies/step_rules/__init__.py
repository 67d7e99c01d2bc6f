"""How a client moves, given gradients: plain and published local optimisers."""

from strategies.step_rules.delta_sgd import delta_sgd
from strategies.step_rules.plain import adagrad, adam, sgd
from strategies.step_rules.wrappers import boxed, clipped

__all__ = [
    "adagrad",
    "adam",
    "boxed",
    "clipped",
    "delta_sgd",
    "sgd",
]
