"""Functions that can only be asked for values, shared out over clients: zeroth-order problems.

A problem is an ordinary task with ordinary data, so every strategy, runtime and command works on
it. What is learned is one vector, `params["x"]`, of the box [0, 1]^d; `batch.x` says which client's
function is meant; the loss is its value. Evaluated on the training examples, the test loss is F.
"""

from fedsim.models.black_box.adversarial import attack
from fedsim.models.black_box.metric import Metric, metric
from fedsim.models.black_box.problem import Problem, black_box, outside
from fedsim.models.black_box.quadratics import quadratics

__all__ = ["Metric", "Problem", "attack", "black_box", "metric", "outside", "quadratics"]
