"""FedOpt: the mean update is a pseudo-gradient for a server optimiser (FedAvgM, FedAdam, FedYogi).

Papers
    Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan. "Adaptive Federated
    Optimization". ICLR 2021. arXiv:2003.00295, Algorithm 2.
    Hsu, Qi, Brown. "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification". 2019. arXiv:1909.06335, section 4.3 (FedAvgM).

Notation
    D = the released mean update (an ascent direction)    m first moment    v second moment

Algorithm (what the base strategy then adds to x)
    FedAvgM   1  m <- beta m + D
              2  move = server_lr m
    adaptive  3  m <- beta_1 m + (1 - beta_1) D
              4  FedAdam   v <- beta_2 v + (1 - beta_2) D^2
                 FedYogi   v <- v - (1 - beta_2) D^2 sign(v - D^2)
              5  move = server_lr m / (sqrt(v) + tau)

Deviations
    None from Algorithm 2: v starts at tau^2 and no bias is corrected.
    Flower's FedAdam starts v at 0 and corrects with exponent round + 1: another first few rounds.

Each is a function Strategy -> Strategy, so it composes with FedProx and every later client half.
What a base's clients send beside their diff, such as SCAFFOLD's control, is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from fedsim.core import trees
from fedsim.core.errors import in_unit_interval, positive
from fedsim.core.scenario import AnyStrategy
from fedsim.core.trees import Tree
from fedsim.core.updates import Released


class Momentum(NamedTuple):
    """base: the base strategy's state; m: first moment."""

    base: Any
    m: Tree


class Adaptive(NamedTuple):
    """base: the base strategy's state; m, v: first and second moment."""

    base: Any
    m: Tree
    v: Tree


def fedavgm(base: AnyStrategy, *, server_lr: float = 1.0, beta: float = 0.9) -> AnyStrategy:
    """Server momentum around `base`. With beta = 0.9 its long-run step is ten times server_lr.

    Raises:
        InputError: server_lr is not above 0, or beta is outside [0, 1).

    Guarantees:
        With beta = 0 and server_lr = 1 it equals the base strategy.
    """
    positive("fedavgm", "Use 1.", server_lr=server_lr)
    in_unit_interval("fedavgm", "Use 0.9.", beta=beta)

    def update(server: Momentum, released: Released) -> Momentum:
        d = _learned(released, server.m)
        m = {key: d[key] + beta * server.m[key] for key in d}  # line 1
        move = released.map(lambda sent: sent | trees.scale(m, server_lr))  # line 2
        return Momentum(base.update(server.base, move), server.m | m)

    return replace(
        _around(base, "fedavgm"),
        init=lambda params: Momentum(base.init(params), trees.zeros_like(params)),
        update=update,
    )


def fedadam(
    base: AnyStrategy,
    *,
    server_lr: float = 0.01,
    beta_1: float = 0.9,
    beta_2: float = 0.99,
    tau: float = 1e-3,
) -> AnyStrategy:
    """Adam on the server around `base`; server_lr and the clients' learning rate go together.

    Raises:
        InputError: server_lr or tau is not above 0, or a beta is outside [0, 1).

    Guarantees:
        A zero update leaves the model where it is.
    """

    def second_moment(v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        return beta_2 * v + (1 - beta_2) * square  # line 4, FedAdam

    return _adaptive(base, "fedadam", second_moment, server_lr, beta_1, beta_2, tau)


def fedyogi(
    base: AnyStrategy,
    *,
    server_lr: float = 0.01,
    beta_1: float = 0.9,
    beta_2: float = 0.99,
    tau: float = 1e-3,
) -> AnyStrategy:
    """Yogi on the server around `base`: v moves by at most (1 - beta_2) D^2.

    Raises:
        InputError: server_lr or tau is not above 0, or a beta is outside [0, 1).

    Guarantees:
        A zero update leaves the model where it is.
    """

    def second_moment(v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        return v - (1 - beta_2) * square * torch.sign(v - square)  # line 4, FedYogi

    return _adaptive(base, "fedyogi", second_moment, server_lr, beta_1, beta_2, tau)


def _learned(released: Released, params: Tree) -> Tree:
    """The part of the diff that are parameters: all, or without those that the base holds."""
    return {key: released.diff[key] for key in params if key in released.diff}


def _around(base: AnyStrategy, name: str) -> AnyStrategy:
    """`base` with a server state that carries the base's own in its field `base`."""
    return replace(
        base,
        name=f"{name}({base.name})",
        broadcast=lambda server, round_num: base.broadcast(server.base, round_num),
        params=lambda server: base.params(server.base),
    )


def _adaptive(
    base: AnyStrategy,
    name: str,
    second_moment: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    server_lr: float,
    beta_1: float,
    beta_2: float,
    tau: float,
) -> AnyStrategy:
    positive(name, "Use 0.01 and 0.001.", server_lr=server_lr, tau=tau)
    in_unit_interval(name, "Use 0.9 and 0.99.", beta_1=beta_1, beta_2=beta_2)

    def init(params: Tree) -> Adaptive:
        v = {key: torch.full_like(value, tau**2) for key, value in params.items()}
        return Adaptive(base.init(params), trees.zeros_like(params), v)

    def update(server: Adaptive, released: Released) -> Adaptive:
        d = _learned(released, server.m)
        m = {key: beta_1 * server.m[key] + (1 - beta_1) * d[key] for key in d}  # line 3
        v = {key: second_moment(server.v[key], d[key].square()) for key in d}  # line 4
        move = released.map(  # line 5
            lambda sent: sent | {key: server_lr * m[key] / (v[key].sqrt() + tau) for key in m}
        )
        return Adaptive(base.update(server.base, move), server.m | m, server.v | v)

    return replace(_around(base, name), init=init, update=update)
