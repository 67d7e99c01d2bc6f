"""Black-box functions split over clients: tasks for zeroth-order optimisation.

problem       a function as a task: `black_box`, `external` for functions that are not torch
synthetic     `quadratics`: the synthetic family of the FZooS paper
adversarial   `universal_perturbation`: one perturbation that fools a classifier
metrics       `metric`: tune a classifier for F1 and the like, which have no gradient
training      the small classifiers that the last two start from

A problem is an ordinary task with ordinary data, so every strategy, runtime and command works on
it. What is learned is one vector, `params["x"]`, in the box [0, 1]^d; `batch.x` holds what tells
the clients' functions apart; the loss is the function's value. Evaluation is on the training
examples, so the test loss is F.
"""

from fedsim.models.black_box.adversarial import universal_perturbation
from fedsim.models.black_box.metrics import Metric, metric
from fedsim.models.black_box.problem import Problem, black_box, external
from fedsim.models.black_box.synthetic import quadratics

__all__ = [
    "Metric",
    "Problem",
    "black_box",
    "external",
    "metric",
    "quadratics",
    "universal_perturbation",
]
