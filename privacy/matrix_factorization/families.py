"""Families by name, to rebuild a factorization from its ledger entry."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache

from fedsim.core.errors import unknown
from privacy.matrix_factorization.banded import banded_toeplitz
from privacy.matrix_factorization.blt import blt
from privacy.matrix_factorization.factorization import Factorization
from privacy.matrix_factorization.stateless import (
    banded_inverse,
    independent,
    lambda_cgd,
    nu_ftrl,
    square_root,
)
from privacy.matrix_factorization.toeplitz import Array
from privacy.matrix_factorization.tree import tree
from privacy.validate import refusal

# Optimised factorizations are recorded by their coefficients: rebuilding them needs no optimiser.
FAMILIES: Mapping[str, Callable[..., Factorization]] = {
    "independent": independent,
    "lambda_cgd": lambda_cgd,
    "square_root": square_root,
    "nu_ftrl": nu_ftrl,
    "banded_inverse": banded_inverse,
    "banded_toeplitz": banded_toeplitz,
    "blt": blt,
    "tree": tree,
}


def rebuild(
    name: str, parameters: Mapping[str, float | int | list[float]], rounds: int
) -> Factorization:
    """The factorization whose `name`, `parameters` and `rounds` these are.

    Raises:
        InputError: nothing has that name.
        PrivacyError: a parameter is missing, unknown, or out of its range.

    Guarantees:
        It has the same coefficients as the recorded one, bit for bit.
    """
    if name not in FAMILIES:
        raise unknown("rebuild", "name", name, FAMILIES)
    try:
        return FAMILIES[name](**parameters, rounds=rounds)
    except TypeError as error:
        rule = f"those of {name}"
        raise refusal("rebuild", "parameters", rule, dict(parameters), f"{error}.") from error


@lru_cache(maxsize=64)
def rebuild_strategy(text: str) -> Array:
    """The strategy C, [n] or [n, n], that a ledger's line describes: name, parameters, rounds.

    Raises:
        InputError: nothing has that name.
        PrivacyError: a parameter is missing, unknown, or out of its range.
    """
    made = json.loads(text)
    return rebuild(made["name"], made["parameters"], made["rounds"]).strategy
