"""What is learned: one published algorithm, one file. Knows nothing of Flower or privacy."""

from strategies.curriculum import client_curriculum, data_curriculum, keeping_last
from strategies.delta_sgd import delta_sgd
from strategies.fedavg import fedavg
from strategies.fedcm import fedcm
from strategies.feddyn import feddyn
from strategies.fedld import fedld, principal_directions
from strategies.fednova import fednova
from strategies.fedopt import fedadam, fedavgm, fedyogi
from strategies.fedprox import fedprox
from strategies.fedsam import fedsam, mofedsam, sharp
from strategies.fedspeed import fedspeed
from strategies.fedsvd import fedsvd
from strategies.ffa_lora import ffa_lora
from strategies.moon import moon
from strategies.scaffold import scaffold

__all__ = [
    "client_curriculum",
    "data_curriculum",
    "delta_sgd",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedcm",
    "feddyn",
    "fedld",
    "fednova",
    "fedprox",
    "fedsam",
    "fedspeed",
    "fedsvd",
    "fedyogi",
    "ffa_lora",
    "keeping_last",
    "mofedsam",
    "moon",
    "principal_directions",
    "scaffold",
    "sharp",
]
