"""What is learned: one published algorithm, one file. Knows nothing of Flower or privacy."""

from strategies.client_curriculum import client_curriculum
from strategies.data_curriculum import data_curriculum, keeping_last
from strategies.delta_sgd import delta_sgd
from strategies.fedavg import fedavg
from strategies.fedcm import fedcm
from strategies.feddecorr import feddecorr
from strategies.feddyn import feddyn
from strategies.fedld import fedld, principal_directions
from strategies.fednova import fednova
from strategies.fedopt import fedadam, fedavgm, fedyogi
from strategies.fedprox import fedprox
from strategies.fedsam import fedsam, mofedsam, sharp
from strategies.fedspeed import fedspeed
from strategies.fedsvd import fedsvd
from strategies.ffa_lora import ffa_lora
from strategies.fzoos import fzoos
from strategies.monna import monna
from strategies.moon import moon
from strategies.robust import (
    coordinate_median,
    krum,
    multi_krum,
    nearest_neighbours,
    trimmed_mean,
)
from strategies.scaffold import scaffold
from strategies.zeroth_order import zeroth_order

__all__ = [
    "client_curriculum",
    "coordinate_median",
    "data_curriculum",
    "delta_sgd",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedcm",
    "feddecorr",
    "feddyn",
    "fedld",
    "fednova",
    "fedprox",
    "fedsam",
    "fedspeed",
    "fedsvd",
    "fedyogi",
    "fzoos",
    "ffa_lora",
    "keeping_last",
    "krum",
    "mofedsam",
    "monna",
    "moon",
    "multi_krum",
    "nearest_neighbours",
    "principal_directions",
    "scaffold",
    "sharp",
    "trimmed_mean",
    "zeroth_order",
]
