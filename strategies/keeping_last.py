"""Any strategy, whose clients also keep the model with which they ended their last round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedsim.core.scenario import AnyStrategy
from fedsim.core.trees import Tree


class Kept(NamedTuple):
    """inner: the base strategy's client state; last: where the client ended; seen: 1 if it did."""

    inner: Any
    last: Tree
    seen: Tensor


def keeping_last(base: AnyStrategy) -> AnyStrategy:
    """The same strategy, whose clients also keep the model with which they ended."""

    def client_init(params: Tree) -> Kept:
        zero = torch.zeros((), device=next(iter(params.values())).device)
        return Kept(base.client_init(params), params, zero)

    def local_end(local: Any, broadcast: Any, client: Kept) -> tuple[Tree, Kept]:
        diff, inner = base.local_end(local, broadcast, client.inner)
        return diff, Kept(inner, local.params, torch.ones_like(client.seen))

    return replace(
        base,
        name=f"{base.name}, keeping last models",
        client_init=client_init,
        local_init=lambda broadcast, client: base.local_init(broadcast, client.inner),
        local_step=lambda local, batch, oracle, broadcast, client: base.local_step(
            local, batch, oracle, broadcast, client.inner
        ),
        local_end=local_end,
    )
