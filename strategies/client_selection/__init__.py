"""Client selection: which clients take part in a round. One selection, one file.

uniform             a fixed number, every set of clients equally likely
poisson             every client independently (`poisson`), or in groups by turns (`poisson_groups`)
cyclic              by turns, in a fixed order
client_curriculum   easy clients first
"""

from strategies.client_selection.client_curriculum import client_curriculum
from strategies.client_selection.cyclic import cyclic
from strategies.client_selection.poisson import poisson, poisson_groups
from strategies.client_selection.uniform import uniform

__all__ = [
    "client_curriculum",
    "cyclic",
    "poisson",
    "poisson_groups",
    "uniform",
]
