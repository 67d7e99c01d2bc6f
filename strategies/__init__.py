"""What is learned: one published algorithm, one file. Knows nothing of Flower or privacy."""

from strategies.delta_sgd import delta_sgd
from strategies.fedavg import fedavg
from strategies.fedopt import fedadam, fedavgm, fedyogi
from strategies.fedprox import fedprox

__all__ = ["delta_sgd", "fedadam", "fedavg", "fedavgm", "fedprox", "fedyogi"]
