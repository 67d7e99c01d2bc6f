"""FFA-LoRA: adapters of which every client freezes the same random A, and only B is learned.

Paper
    Sun, Li, Li, Ding. "Improving LoRA in Privacy-preserving Federated Learning". ICLR 2024.
    arXiv:2403.12313.

Notation
    W0 + s B A an adapted matrix    A [r, q]    B [p, r]    p_i weights, sum 1

Algorithm
    1  A random, B = 0;  for t = 1..T:
    2      send A and B to the cohort S_t
    3      each i in S_t:  B_i <- B
    4          for each mini-batch xi:  B_i <- B_i - lr * grad_B F_i(A, B_i; xi)
    5          send B_i - B
    6      B <- B + server_lr * sum_i p_i (B_i - B)

Deviations
    Line 2 sends A in every round, so that no client can hold another one; it changes in none, and a
    real system would send it once.  Line 4 takes any step rule.  Whatever else the task learns (a
    head) is treated as B is.  Line 6 has a server_lr; 1 is the paper's.

B A is linear in what is learned: the mean of B_i times A is the mean of the B_i A, which plain
FedAvg of both halves is not, and noise on B is not multiplied by noise on A.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle
from fedsim.core.scenario import AnyStrategy
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from fedsim.core.updates import Released
from fedsim.models.lora import halves, needs_adapters
from strategies.fedavg import Local, Model, Nothing, Server, fedavg


def ffa_lora(*, steps: StepRule[Any], server_lr: float = 1.0) -> AnyStrategy:
    """Federated averaging of the B's of adapters; the A's stay as they began.

    Args:
        steps: how a client moves (line 4).
        server_lr: how far the server follows the mean update (line 6), > 0.

    Raises:
        InputError: server_lr is not above 0. (At the start of a run:) the task has no adapters.

    Guarantees:
        The A's never change, and no client sends one.
        Averaging the B's averages the products B A exactly.
    """
    base = fedavg(steps=steps, server_lr=server_lr)

    def local_init(model: Model, client: Nothing) -> Local:  # line 3
        learned, _ = halves(model.params)
        return Local(learned, steps.init(learned, model.round_num))

    def local_step(
        local: Local, batch: Batch, oracle: Oracle, model: Model, client: Nothing
    ) -> Local:  # line 4
        _, fixed = halves(model.params)

        def gradient(learned: Tree) -> Tree:
            return oracle.gradient(learned, batch, held=fixed)

        return Local(*steps.step(local.rule, local.params, gradient))

    def local_end(local: Local, model: Model, client: Nothing) -> tuple[Tree, Nothing]:  # line 5
        return trees.subtract(local.params, model.params), client

    def update(server: Server, released: Released) -> Server:  # line 6
        learned, _ = halves(server.params)
        return Server(server.params | trees.add_scaled(learned, released.diff, server_lr))

    return replace(
        base,
        name="ffa_lora",
        update=update,
        local_init=local_init,
        local_step=local_step,
        local_end=local_end,
        objection=needs_adapters("ffa_lora"),
    )
