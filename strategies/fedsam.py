"""FedSAM: sharpness-aware clients, which use the gradient at a point a little uphill.

Papers
    Qu, Li, Duan, Liu, Tang, Lu. "Generalized Federated Learning via Sharpness Aware Minimization".
    ICML 2022. arXiv:2206.02618, Algorithms 1 (FedSAM) and 2 (MoFedSAM).
    Caldarola, Caputo, Ciccone. "Improving Generalization in Federated Learning by Seeking Flat
    Minima". ECCV 2022. arXiv:2203.11834.

Notation
    y the client's point    xi the step's batch    rho radius

Algorithm (in the place of each local gradient of the base strategy)
    1  g = grad F_i(y; xi)
    2  use grad F_i(y + rho g / ||g||; xi)

Deviations
    None.  The norm is over all tensors together; a zero gradient is not stepped along.

`sharp` turns any strategy into its sharpness-aware form: FedAvg into FedSAM, FedCM into MoFedSAM,
SCAFFOLD into FedGamma (Dai et al., 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle, Penalty
from fedsim.core.errors import non_negative
from fedsim.core.scenario import AnyStrategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from strategies.fedavg import fedavg
from strategies.fedcm import fedcm


def fedsam(*, steps: StepRule[Any], rho: float = 0.1) -> AnyStrategy:
    """FedAvg with sharpness-aware gradients; two gradients a local step.

    Raises:
        InputError: rho is negative.

    Guarantees:
        With rho = 0 it equals FedAvg.
    """
    return replace(sharp(fedavg(steps=steps), rho=rho), name="fedsam")


def mofedsam(*, steps: StepRule[Any], alpha: float = 0.1, rho: float = 0.1) -> AnyStrategy:
    """FedCM with sharpness-aware gradients; two gradients a local step.

    Raises:
        InputError: rho is negative, or alpha is outside (0, 1].

    Guarantees:
        With rho = 0 it equals FedCM.
    """
    return replace(sharp(fedcm(steps=steps, alpha=alpha), rho=rho), name="mofedsam")


def sharp(base: AnyStrategy, *, rho: float) -> AnyStrategy:
    """The strategy whose every local gradient is taken at a point `rho` uphill.

    Raises:
        InputError: rho is negative.
    """
    non_negative("sharp", "Use 0.1.", rho=rho)

    def local_step(local: Any, batch: Batch, oracle: Oracle, broadcast: Any, client: Any) -> Any:
        return base.local_step(local, batch, _Uphill(oracle, rho), broadcast, client)

    return replace(base, name=f"sharp({base.name})", local_step=local_step)


def uphill(point: Tree, gradient: Tree, rho: float) -> Tree:
    """The point a distance `rho` along the gradient; where that is zero, the point itself."""
    length = trees.norm(gradient)
    return trees.add_scaled(point, gradient, torch.where(length > 0, rho / length, 0.0))


@dataclass(frozen=True)
class _Uphill:
    """An oracle whose gradient is taken at a point uphill of the given one."""

    oracle: Oracle
    rho: float

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """Lines 1 and 2."""
        first = self.oracle.gradient(params, batch, penalty, held)
        return self.oracle.gradient(uphill(params, first, self.rho), batch, penalty, held)

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """The loss at `params` itself."""
        return self.oracle.value(params, batch)

    def features(self, params: Tree, batch: Batch) -> Tensor:
        """The features at `params` itself."""
        return self.oracle.features(params, batch)
