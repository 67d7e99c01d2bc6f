"""What is learned: one published algorithm, one file. Knows nothing of Flower or privacy."""

from strategies.fedavg import fedavg
from strategies.fedopt import fedadam, fedavgm, fedyogi
from strategies.fedprox import fedprox

__all__ = ["fedadam", "fedavg", "fedavgm", "fedprox", "fedyogi"]
