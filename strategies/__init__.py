"""Federated algorithms: one published algorithm, one file. They know nothing of Flower or privacy.

Strategies are in this folder. Each other choice has a folder:

step_rules         how a client moves along its gradients
batch_plans        in what order it sees its examples
client_selection   which clients take part in a round
aggregators        how the server combines their updates
shared             what several of these use

`strategies.fedavg` is the function; what else its file holds is reached by
`from strategies.fedavg import Server`.
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
from strategies.keeping_last import keeping_last
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
    "keeping_last",
    "mofedsam",
    "monna",
    "moon",
    "scaffold",
    "sharp",
    "zeroth_order",
]
