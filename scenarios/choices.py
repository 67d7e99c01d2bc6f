"""Knobs that several scenarios share: a strategy by name."""

from __future__ import annotations

from typing import Any, Literal

from fedsim.types import AnyStrategy, StepRule
from strategies import fedadam, fedavg, fedavgm, fedprox, fedyogi

StrategyName = Literal["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"]
Weights = Literal["examples", "uniform"]


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
