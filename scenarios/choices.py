"""Knobs that several scenarios share: a strategy, an aggregator, an attack by name."""

from __future__ import annotations

from typing import Any, Literal

from fedsim.aggregate import mean
from fedsim.attacks import Attack, inner_product, label_flip, little_is_enough, sign_flip
from fedsim.types import Aggregator, AnyStrategy, StepRule
from fedsim.validate import InputError
from strategies import (
    coordinate_median,
    fedadam,
    fedavg,
    fedavgm,
    fedprox,
    fedyogi,
    krum,
    multi_krum,
    nearest_neighbours,
    trimmed_mean,
)

StrategyName = Literal["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"]
Weights = Literal["examples", "uniform"]
AggregatorName = Literal[
    "mean", "median", "trimmed_mean", "krum", "multi_krum", "nearest_neighbours"
]
AttackName = Literal["none", "label_flip", "sign_flip", "little_is_enough", "inner_product"]


def strategy_named(
    name: StrategyName, *, steps: StepRule[Any], mu: float, server_lr: float | None
) -> AnyStrategy:
    """The strategy of that name around these local steps; server_lr None is its own default.

    Defaults: 1 for FedAvg and FedProx, 0.3 for FedAvgM (momentum 0.9), 0.01 for the adaptive ones.
    """
    if name == "fedprox":
        return fedprox(steps=steps, mu=mu, server_lr=1.0 if server_lr is None else server_lr)
    if name == "fedavg":
        return fedavg(steps=steps, server_lr=1.0 if server_lr is None else server_lr)
    base = fedavg(steps=steps)
    if name == "fedavgm":
        return fedavgm(base, server_lr=0.3 if server_lr is None else server_lr)
    adaptive = fedadam if name == "fedadam" else fedyogi
    return adaptive(base, server_lr=0.01 if server_lr is None else server_lr)


def aggregator_named(name: AggregatorName, *, weights: Weights, byzantine: int) -> Aggregator[Any]:
    """The aggregator of that name; weights are the mean's, byzantine the robust rules'.

    Raises:
        InputError: byzantine is given to a rule that has no such number.
    """
    if name in ("mean", "median"):
        if byzantine:
            raise InputError(
                f"aggregator: byzantine must be 0 for {name}, which assumes no number of "
                f"attackers; got {byzantine}. Leave it out, or use trimmed_mean."
            )
        return mean(weights) if name == "mean" else coordinate_median()
    robust = {
        "trimmed_mean": trimmed_mean,
        "krum": krum,
        "multi_krum": multi_krum,
        "nearest_neighbours": nearest_neighbours,
    }
    return robust[name](byzantine=byzantine)


def attack_named(name: AttackName, *, attackers: int, strength: float | None) -> Attack | None:
    """The attack of that name by so many clients; strength None is its own default.

    It is the scale of sign_flip, the z of little_is_enough, the epsilon of inner_product.

    Raises:
        InputError: attackers or a strength are given to what has none.
    """
    if name == "none" and attackers:
        raise InputError(
            f"attack: attackers must be 0 without an attack; got {attackers}. Add --attack."
        )
    if name in ("none", "label_flip") and strength is not None:
        raise InputError(
            f"attack: attack_strength must be left out for {name}; got {strength}. "
            "It is for sign_flip, little_is_enough and inner_product."
        )
    if name == "none":
        return None
    if name == "label_flip":
        return label_flip(attackers)
    given = () if strength is None else (strength,)
    made = {
        "sign_flip": sign_flip,
        "little_is_enough": little_is_enough,
        "inner_product": inner_product,
    }
    return made[name](attackers, *given)
