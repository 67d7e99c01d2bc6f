"""Canary examples: examples like no other with any class, each in or out by a coin.

A canary is random dots: each number of it is the largest that there is in the data, or else the
smallest. So its gradient has little in common with other gradients. It is dealt to a client like
any other example. One that is out is counted and drawn like one that is in, and contributes
nothing: that is a zero-out neighbour, and how many examples a client has stays public.

What is seen of a canary in a round is the server's view: the cosine between its client's update and
the way the canary would have the model go, against its gradient at the round's model; both without
what they have in common with the mean gradients of the client's own examples of each class, which
the attacker is taken to know. Where its client was not asked, nothing is seen.

Source: Steinke et al. (2023), "Privacy auditing with one (1) training run", arXiv:2305.08846, for
    coins; Nasr et al. (2023), arXiv:2302.07956, for canaries unlike the data.

Shapes: m canaries, k clients of a stack, d numbers of a gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import grad, vmap

from fedsim.core import trees
from fedsim.core.batch import Batch
from fedsim.core.dataset import Examples
from fedsim.core.errors import PrivacyError
from fedsim.core.rng import Purpose, numpy_stream
from fedsim.core.task import Task
from fedsim.core.trees import Tree
from fedsim.world.population import Ownership, Population

_AT_ONCE = 1 << 24  # numbers of gradients in memory
_DOTS = 1 / 16  # of the numbers of a canary
_KNOWN = 256  # of a client's own examples, whose mean gradients are taken out


@dataclass(frozen=True, kw_only=True)
class CanaryExamples:
    """The canaries of a run that protects examples.

    included: the coins, bool [m]. clients: whose they are, [m]. x, y: what they are, [m, ...].
    """

    included: Tensor
    clients: Tensor
    x: Tensor
    y: Tensor

    def planted(self, population: Population) -> Population:
        """The population with the canaries in it, those that are out as absent."""
        dataset, owned = population.dataset, population.owned
        train = dataset.train
        more = Examples(
            torch.cat([train.x, self.x.to(train.x)]), torch.cat([train.y, self.y.to(train.y)])
        )
        whose = torch.repeat_interleave(torch.arange(population.size), owned.counts())
        order = torch.argsort(torch.cat([whose, self.clients]), stable=True)
        new = len(train.y) + torch.arange(len(self.clients))
        gone = torch.cat([torch.zeros(len(owned.rows), dtype=torch.bool), ~self.included])
        counts = owned.counts() + torch.bincount(self.clients, minlength=population.size)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        return replace(
            population,
            dataset=replace(dataset, train=more),
            owned=Ownership(torch.cat([owned.rows, new])[order], starts),
            absent=gone[order],
        )

    def seen(
        self, task: Task, population: Population, params: Tree, clients: list[int], diff: Tree
    ) -> Tensor:
        """What these clients' updates show of each canary [m]; NaN where they show nothing.

        Args:
            task: whose gradients.
            population: whose dataset says how examples are made ready.
            params: the round's model.
            clients: whose updates, [k].
            diff: the updates, a stack [k, ...].
        """
        names = [name for name in params if name in diff]
        found = torch.full((len(self.included),), math.nan)
        for row, client in enumerate(clients):
            own = (self.clients == client).nonzero().flatten()
            if not len(own):
                continue
            gradients = _Gradients(task, population, params, names)
            way = -trees.flatten({name: diff[name][row] for name in names})
            common = gradients.common(population.owned.of(client)[:_KNOWN])
            for some in torch.split(own, gradients.at_once):
                unlike = _without(gradients.of(self.x[some], self.y[some]), common)
                along = torch.cosine_similarity(unlike, _without(way, common), dim=-1)
                found[some] = along.to(found)
        return found


@dataclass(frozen=True)
class _Gradients:
    """Of single examples at a round's model. Dropout, if there is any, drops the same for all."""

    task: Task
    population: Population
    params: Tree
    names: list[str]

    @property
    def at_once(self) -> int:
        """How many fit into memory."""
        return max(1, _AT_ONCE // sum(self.params[name].numel() for name in self.names))

    def of(self, x: Tensor, y: Tensor) -> Tensor:
        """[m', d], of examples as the dataset has them."""
        device = self.params[self.names[0]].device
        x, y = self.population.dataset.ready(x.to(device)), y.to(device)
        learned = {name: self.params[name] for name in self.names}
        held = {name: value for name, value in self.params.items() if name not in self.names}
        one, key = torch.ones(1, device=device), torch.zeros((), dtype=torch.int64, device=device)

        def loss(own: Tree, x: Tensor, y: Tensor) -> Tensor:
            batch = Batch(x.unsqueeze(0), y.unsqueeze(0), one, key)
            return self.task.loss(held | own, batch).sum()

        found: Tree = vmap(grad(loss), in_dims=(None, 0, 0))(learned, x, y)
        return trees.flatten_rows(found, self.names)

    def common(self, rows: Tensor) -> Tensor:
        """Orthonormal directions [d, c] that span the mean gradients of these rows, by class."""
        train = self.population.dataset.train
        sums: Tensor | None = None
        for some in torch.split(rows.to(train.y.device), self.at_once):
            found, y = self.of(train.x[some], train.y[some]), train.y[some]
            if sums is None:
                sums = found.new_zeros(self.population.dataset.num_classes, found.shape[1])
            sums.index_add_(0, y.to(found.device), found)
        assert sums is not None
        there = sums[sums.any(dim=1)]
        basis: Tensor = torch.linalg.qr(there.T).Q
        return basis


def _without(vectors: Tensor, common: Tensor) -> Tensor:
    """What is left of vectors [..., d] without these directions."""
    return vectors - (vectors @ common) @ common.T


def canary_examples(included: Tensor, population: Population, seed: int) -> CanaryExamples:
    """Canaries with these coins, dealt in turn to the clients that have examples.

    Raises:
        PrivacyError: examples have no classes.
    """
    dataset, owned = population.dataset, population.owned
    train, classes = dataset.train, dataset.num_classes
    if train.y.dim() != 1 or train.y.is_floating_point() or classes < 2:
        raise PrivacyError(
            f"run: canaries must be of a class; got {dataset.name}, which has none. Audit whole "
            "clients, or a classification."
        )
    stream = numpy_stream(seed, Purpose.CANARY, 0, 1)
    busy = owned.counts().nonzero().flatten()
    count, shape = len(included), train.x.shape[1:]
    return CanaryExamples(
        included=included,
        clients=busy[torch.arange(count) % len(busy)],
        x=_dots(train.x, torch.from_numpy(stream.random((count, *shape)))),
        y=torch.from_numpy(stream.integers(classes, size=count)),
    )


def _dots(x: Tensor, drawn: Tensor) -> Tensor:
    """The largest finite number of x where a draw is small, else the smallest; of words, any."""
    if x.is_floating_point() or x.dtype == torch.uint8:
        there = x[x.isfinite()] if x.is_floating_point() else x
        low, high = there.min(), there.max()
        return torch.where(drawn.to(x.device) < _DOTS, high, low)
    words = x.flatten()
    return words[(drawn.to(x.device) * len(words)).long()]
