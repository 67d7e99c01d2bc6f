"""Canary examples: training examples with a wrong label, each in or out by a coin.

They are dealt to clients like any other example, copies of the client's own with another class. One
that is out is counted and drawn like one that is in, and contributes nothing: that is a zero-out
neighbour, and how many examples a client has stays public.

What is seen of a canary in a round is the server's view: the cosine between its client's update and
the way the canary would have the model go, against its gradient at the round's model. Where its
client was not asked, nothing is seen.

Source: Steinke et al. (2023), "Privacy auditing with one (1) training run", arXiv:2305.08846, for
    coins; Nasr et al. (2023), arXiv:2302.07956, for what is seen.

Shapes: m canaries, k clients of a stack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import grad, vmap

from fedsim.data import Examples
from fedsim.population import Ownership, Population
from fedsim.rng import Purpose, numpy_stream
from fedsim.tasks import Task
from fedsim.types import Batch, Tree
from fedsim.validate import PrivacyError

_AT_ONCE = 1 << 24  # numbers of gradients in memory


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
        place = {client: row for row, client in enumerate(clients)}
        own = [number for number, c in enumerate(self.clients.tolist()) if c in place]
        found = torch.full((len(self.included),), math.nan)
        size = max(1, _AT_ONCE // sum(params[name].numel() for name in names))
        for part in torch.split(torch.tensor(own, dtype=torch.int64), size):
            rows = torch.tensor([place[int(self.clients[j])] for j in part], dtype=torch.int64)
            x = population.dataset.ready(self.x[part].to(params[names[0]].device))
            grads = self._gradients(task, params, names, x, self.y[part].to(x.device))
            sent = torch.cat([diff[n].unsqueeze(-1).flatten(1) for n in names], dim=1)[rows]
            found[part] = -torch.cosine_similarity(grads, sent, dim=1).cpu()
        return found

    def _gradients(
        self, task: Task, params: Tree, names: list[str], x: Tensor, y: Tensor
    ) -> Tensor:
        """[m', d]. Dropout, where there is any, drops the same for all."""
        learned = {name: params[name] for name in names}
        held = {name: value for name, value in params.items() if name not in names}
        one, key = torch.ones(1, device=x.device), torch.zeros((), dtype=torch.int64)

        def loss(own: Tree, x: Tensor, y: Tensor) -> Tensor:
            batch = Batch(x.unsqueeze(0), y.unsqueeze(0), one, key.to(x.device))
            return task.loss(held | own, batch).sum()

        found: Tree = vmap(grad(loss), in_dims=(None, 0, 0))(learned, x, y)
        return torch.cat([found[name].unsqueeze(-1).flatten(1) for name in names], dim=1)


def canary_examples(included: Tensor, population: Population, seed: int) -> CanaryExamples:
    """Canaries with these coins, dealt in turn to the clients that have examples.

    Raises:
        PrivacyError: examples have no class that could be wrong.
    """
    dataset, owned = population.dataset, population.owned
    train, classes = dataset.train, dataset.num_classes
    if train.y.dim() != 1 or train.y.is_floating_point() or classes < 2:
        raise PrivacyError(
            f"run: canaries must have a class that can be wrong; got {dataset.name}, which has no "
            "classes. Audit whole clients, or a classification."
        )
    stream = numpy_stream(seed, Purpose.CANARY, 0, 1)
    counts = owned.counts()
    busy = counts.nonzero().flatten()
    clients = busy[torch.arange(len(included)) % len(busy)]
    place = (torch.from_numpy(stream.random(len(included))) * counts[clients]).long()
    rows = owned.rows[owned.starts[clients] + place].to(train.y.device)
    off = torch.from_numpy(stream.integers(1, classes, len(included))).to(train.y.device)
    return CanaryExamples(
        included=included, clients=clients, x=train.x[rows], y=(train.y[rows] + off) % classes
    )
