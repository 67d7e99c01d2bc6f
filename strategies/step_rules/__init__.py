"""Step rules: how a client moves along the gradient of its local objective. One rule, one file.

sgd         momentum, weight decay, a factor from round to round
adam        Adam and AdamW
adagrad     Adagrad
delta_sgd   Delta-SGD: a learning rate from the local smoothness
clipped     any rule, on gradients of bounded norm
boxed       any rule, kept within a box
"""

from strategies.step_rules.adagrad import adagrad
from strategies.step_rules.adam import adam
from strategies.step_rules.boxed import boxed
from strategies.step_rules.clipped import clipped
from strategies.step_rules.delta_sgd import delta_sgd
from strategies.step_rules.sgd import sgd

__all__ = [
    "adagrad",
    "adam",
    "boxed",
    "clipped",
    "delta_sgd",
    "sgd",
]
