"""Zeroth-order forms of first-order strategies: finite differences in place of gradients.

Papers
    Fang, Yu, Jiang, Shi, Jones, Zhou. "Communication-Efficient Stochastic Zeroth-Order
    Optimization for Federated Learning". 2022. arXiv:2201.09531 (FedZO).
    Shu, Lin, Dai, Low. "Federated Zeroth-Order Optimization using Trajectory-Informed Surrogate
    Gradients". arXiv:2308.04077, section 6 (FedProx and SCAFFOLD as its baselines).

Notation
    y the client's point    xi the step's batch    Q directions    lambda smoothing    d coordinates

Algorithm (in the place of each local gradient of the base strategy)
    1  draw u_1..u_Q ~ N(0, I_d), and make them orthonormal
    2  g = (d / Q) sum_q u_q (F_i(y + lambda u_q; xi) - F_i(y; xi)) / lambda

Deviations
    The factor d / Q, with which g is the gradient on average for an F_i that is linear over lambda,
    is a matter of scale; Adam does not see it.  There are never more than d directions.  Where a
    base uses several gradients in a step, all are along the same directions.

`zeroth_order` turns FedAvg into FedZO, FedProx into FedProx-ZO, and SCAFFOLD (option II) into
SCAFFOLD-ZO: each gradient costs Q + 1 function queries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle, Penalty
from fedsim.core.errors import InputError, at_least, positive
from fedsim.core.rng import mix, normals
from fedsim.core.scenario import AnyStrategy
from fedsim.core.trees import Tree

_DIRECTIONS = 0xD1EC  # tells the draw of a step's directions from its other draws


def zeroth_order(
    base: AnyStrategy, *, directions: int = 20, smoothing: float = 0.01
) -> AnyStrategy:
    """The same strategy with finite differences for gradients: it queries only values.

    Args:
        base: a strategy whose clients use plain gradients.
        directions: Q, of a gradient; each costs a query, and the point itself one more.
        smoothing: lambda, how far a difference reaches; a length in the space of the parameters.

    Raises:
        InputError: directions is below 1, or smoothing is not above 0.

    Guarantees:
        A gradient costs directions + 1 queries.
        With as many directions as coordinates, the gradient of a linear function is exact.
        With fewer, it is the gradient on average.
    """
    at_least("zeroth_order", 1, "Use 20.", directions=directions)
    positive("zeroth_order", "Use 0.01.", smoothing=smoothing)

    def local_step(local: Any, batch: Batch, oracle: Oracle, broadcast: Any, client: Any) -> Any:
        differences = _Differences(oracle, directions, smoothing)
        return base.local_step(local, batch, differences, broadcast, client)

    return replace(base, name=f"zeroth_order({base.name})", local_step=local_step)


@dataclass(frozen=True)
class _Differences:
    """An oracle whose gradients are finite differences."""

    oracle: Oracle
    directions: int
    smoothing: float

    def gradient(
        self, params: Tree, batch: Batch, penalty: Penalty | None = None, held: Tree | None = None
    ) -> Tree:
        """Lines 1 and 2.

        Raises:
            InputError: there is a penalty, which values cannot include.
        """
        if penalty is not None:
            raise InputError(
                "zeroth_order: base must be a strategy that adds nothing to the loss; got one with "
                "a penalty. Use fedavg, fedprox or scaffold."
            )
        here = trees.flatten(params)
        count = min(self.directions, len(here))
        draws = normals(mix(batch.key ^ _DIRECTIONS), count * len(here)).reshape(-1, count)
        across = torch.linalg.qr(draws.to(here.dtype)).Q  # line 1, [d, Q]

        def value(point: Tensor) -> Tensor:
            return self.oracle.value((held or {}) | trees.unflatten(point, params), batch)

        level = value(here)
        rises = [value(here + self.smoothing * u) - level for u in across.unbind(dim=1)]  # line 2
        slope = across @ torch.stack(rises) * (len(here) / (count * self.smoothing))
        return trees.unflatten(slope.to(here.dtype), params)

    def value(self, params: Tree, batch: Batch) -> Tensor:
        """The loss at `params`."""
        return self.oracle.value(params, batch)

    def features(self, params: Tree, batch: Batch) -> Tensor:
        """The features at `params`."""
        return self.oracle.features(params, batch)
