"""Correlated noise by matrix factorization: families, sensitivity, amplification.

A family (`banded`, `blt`, `nu_ftrl`, ...) makes a `Factorization` for a number of rounds;
`sensitivity` computes how far one unit moves it under a participation schema.
`nu_square_sensitivity` and `mean_estimation_ratio` are closed forms that help to choose nu for
`nu_ftrl`.
"""

from privacy.matrix_factorization.amplification import GroupPoisson, group_poisson
from privacy.matrix_factorization.banded import banded, banded_square_root, banded_toeplitz
from privacy.matrix_factorization.blt import blt, blt_optimised
from privacy.matrix_factorization.factorization import Factorization
from privacy.matrix_factorization.families import FAMILIES, rebuild, rebuild_strategy
from privacy.matrix_factorization.nu_bounds import mean_estimation_ratio, nu_square_sensitivity
from privacy.matrix_factorization.participation import (
    FixedEpoch,
    MinSeparation,
    Observed,
    Participation,
    Sensitivity,
    Single,
    sensitivity,
)
from privacy.matrix_factorization.stateless import (
    banded_inverse,
    independent,
    lambda_cgd,
    nu_ftrl,
    square_root,
)
from privacy.matrix_factorization.tree import tree

__all__ = [
    "FAMILIES",
    "Factorization",
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
    "rebuild_strategy",
    "tree",
]
