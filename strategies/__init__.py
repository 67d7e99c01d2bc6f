"""What is learned: one published algorithm, one file. Knows nothing of Flower or privacy.

Strategies are in this folder; the other choices of an algorithm have a folder each:
`step_rules`, `batch_plans`, `client_selection`, `aggregators`.
"""

from strategies.fedavg import fedavg
from strategies.fedcm import fedcm
from strategies.feddecorr import feddecorr
from strategies.feddyn import feddyn
from strategies.fedld import fedld
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
from strategies.scaffold import scaffold
from strategies.zeroth_order import zeroth_order

__all__ = [
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
    "ffa_lora",
    "fzoos",
    "mofedsam",
    "monna",
    "moon",
    "scaffold",
    "sharp",
    "zeroth_order",
]
