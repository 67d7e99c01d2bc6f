"""Correlated noise (matrix factorisation): families, sensitivities, and amplification."""

from privacy.factorisation.amplification import GroupPoisson, group_poisson
from privacy.factorisation.banded import banded, banded_square_root, banded_toeplitz
from privacy.factorisation.blt import blt, blt_optimised
from privacy.factorisation.catalogue import FAMILIES, rebuild, strategy_of
from privacy.factorisation.limits import mean_estimation_ratio, nu_square_sensitivity
from privacy.factorisation.participation import (
    FixedEpoch,
    MinSeparation,
    Observed,
    Participation,
    Sensitivity,
    Single,
    sensitivity,
)
from privacy.factorisation.record import Factorisation
from privacy.factorisation.regenerated import (
    banded_inverse,
    independent,
    lambda_cgd,
    nu_ftrl,
    square_root,
)
from privacy.factorisation.tree import tree

__all__ = [
    "FAMILIES",
    "Factorisation",
    "FixedEpoch",
    "GroupPoisson",
    "MinSeparation",
    "Observed",
    "Participation",
    "Sensitivity",
    "Single",
    "banded",
    "banded_inverse",
    "banded_square_root",
    "banded_toeplitz",
    "blt",
    "blt_optimised",
    "group_poisson",
    "independent",
    "lambda_cgd",
    "mean_estimation_ratio",
    "nu_ftrl",
    "nu_square_sensitivity",
    "rebuild",
    "sensitivity",
    "square_root",
    "strategy_of",
    "tree",
]
