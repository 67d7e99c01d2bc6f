"""MOON: a contrastive loss pulls features to the server model's, away from the client's last.

Paper
    Li, He, Song. "Model-Contrastive Federated Learning". CVPR 2021. arXiv:2103.16257, Algorithm 1.

Notation
    z, z_g, z_p features of the client's model, of the received one, of the client's last one
    mu mu    tau temperature    sim cosine similarity

Algorithm
    1  for t = 1..T:
    2      send x^t to the cohort S_t
    3      each i in S_t:  y <- x^t;  p <- where i ended its last round (x^t if it is its first)
    4          for each batch:  L = CE(y) + mu L_con,
                 L_con = - log( e^{sim(z, z_g)/tau} / (e^{sim(z, z_g)/tau} + e^{sim(z, z_p)/tau}) )
    5              y <- y - lr grad L
    6          send y - x^t;  keep y
    7      x^{t+1} = x^t + server_lr sum_i p_i (y_i - x^t)

Deviations
    The features are the input of the model's last dense layer: give the model a projection head
    there to have the paper's.  z_g and z_p are taken in evaluation mode.  Line 6 keeps y only once
    the server has accepted the reply.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle, Outputs, Penalty
from fedsim.core.errors import non_negative, positive
from fedsim.core.scenario import AnyStrategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from strategies.fedavg import Local, Model, fedavg


class Last(NamedTuple):
    """A client's memory. last: where it ended its last round; seen: 1 if there was one, []."""

    last: Tree
    seen: Tensor


def moon(
    *, steps: StepRule[Any], mu: float = 1.0, temperature: float = 0.5, server_lr: float = 1.0
) -> AnyStrategy:
    """Model-contrastive learning; two forward passes more than FedAvg in each local step.

    Args:
        steps: how a client moves (line 5).
        mu: weight of the contrastive loss, >= 0.
        temperature: tau, > 0.
        server_lr: as in FedAvg.

    Raises:
        InputError: a value is out of its range.

    Guarantees:
        With mu = 0 it equals FedAvg.
        In a client's first round the contrastive loss is log 2 and moves nothing.
    """
    non_negative("moon", "Use 1.", mu=mu)
    positive("moon", "Use 0.5.", temperature=temperature)
    base: AnyStrategy = fedavg(steps=steps, server_lr=server_lr)

    def contrast(outputs: Outputs, mask: Tensor, received: Tensor, last: Tensor) -> Tensor:
        near = functional.cosine_similarity(outputs.features, received, dim=-1)
        far = functional.cosine_similarity(outputs.features, last, dim=-1)
        return mu * functional.softplus((far - near) / temperature)

    def client_init(params: Tree) -> Last:
        return Last(params, torch.zeros((), device=next(iter(params.values())).device))

    def local_step(
        local: Local, batch: Batch, oracle: Oracle, model: Model, client: Last
    ) -> Local:  # lines 4 and 5
        before = {
            k: torch.where(client.seen > 0, client.last[k], v) for k, v in model.params.items()
        }
        given = oracle.features(model.params, batch), oracle.features(before, batch)

        def gradient(y: Tree) -> Tree:
            return oracle.gradient(y, batch, Penalty(contrast, given))

        return Local(*steps.step(local.rule, local.params, gradient))

    def local_end(local: Local, model: Model, client: Last) -> tuple[Tree, Last]:  # line 6
        diff = trees.subtract(local.params, model.params)
        return diff, Last(local.params, torch.ones_like(client.seen))

    return replace(
        base,
        name="moon",
        client_init=client_init,
        local_step=local_step,
        local_end=local_end,
    )
