"""The mechanisms that go through the batteries, and the worlds in which they do.

Joining is one line in MECHANISMS. In the linear world an example's loss is <parameters, x>, so that
its gradient is the example itself, and a client's update is its only example with the other sign:
whatever a test wants a unit to contribute is what its data are.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.ledger import Entry
from fedsim.core.scenario import Mechanism, Scenario
from fedsim.core.settings import Settings
from fedsim.core.trees import Tree
from fedsim.runs.description import describe
from fedsim.runs.folder import RunFolder
from fedsim.runs.loop import Finished, simulate
from fedsim.server.round import ServerState, begin, finish_round, ledger_entries
from fedsim.server.setup import PreparedRun, prepare
from fedsim.server.transport import Replies, Work
from fedsim.testing import direct
from fedsim.testing.linear_world import SHAPES, flatten_exactly, linear_task
from fedsim.training.client_state import ClientStates
from fedsim.world import partition
from privacy import (
    batch_clipping,
    client_dp,
    correlated_dp_sgd,
    correlated_noise,
    dp_sgd,
    error_feedback,
    local_dp,
)
from privacy.matrix_factorization import banded_toeplitz, blt, nu_ftrl
from privacy.mechanisms.clipping import automatic, per_layer, quantile
from strategies import batch_plans, client_selection, fedavg
from strategies.aggregators import mean, public_mean
from strategies.step_rules import sgd
from tests.helpers.worlds import small_world

NU = nu_ftrl(0.1, rounds=60)
BANDED = banded_toeplitz((1.0, 0.5, 0.3), rounds=60)
BLT = blt((0.9, 0.5), (0.25, 0.2), rounds=60)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A mechanism of any noise multiplier, and what it is to be run with.

    clip: what its sensitivity is in units of, where it follows a clip norm that moves.
    summed: whether its sensitivity is that of a sum, which is then divided by a public number.
    """

    make: Callable[[float], Mechanism[Any]]
    unit: str
    kind: str  # how units come into a release
    clip: float = 1.0
    summed: bool = True
    aggregator: Any = None

    def parts(self, noise_multiplier: float) -> dict[str, Any]:
        """What a scenario of several rounds needs of it."""
        made = {"mechanism": self.make(noise_multiplier)}
        if self.unit == "example":
            batches = {
                "poisson": batch_plans.poisson_batches(steps=2, sampling_prob=0.5),
                "ordered": batch_plans.ordered_epochs(epochs=1, batch_size=4),
            }[self.kind]
            return {"plan": batches, **made}
        chosen = {
            "poisson": client_selection.poisson,
            "cyclic": client_selection.cyclic,
            "fixed": client_selection.uniform,
        }
        return {"selection": chosen[self.kind](), "aggregator": self.aggregator, **made}


def example(make, kind="poisson", **more) -> Case:
    return Case(make=make, unit="example", kind=kind, **more)


def client(make, kind="poisson", aggregator=None, **more) -> Case:
    return Case(make=make, unit="client", kind=kind, aggregator=aggregator or public_mean(), **more)


MECHANISMS = {
    "dp_sgd": example(lambda z: dp_sgd(noise_multiplier=z)),
    "dp_sgd per layer": example(lambda z: dp_sgd(noise_multiplier=z, clip=per_layer(1.5))),
    "dp_sgd automatic": example(lambda z: dp_sgd(noise_multiplier=z, clip=automatic())),
    "dp_sgd quantile": example(
        lambda z: dp_sgd(noise_multiplier=z, clip=quantile(0.7, count_noise=2.0)), clip=0.7
    ),
    "batch_clipping": example(lambda z: batch_clipping(noise_multiplier=z), summed=False),
    "error_feedback": example(lambda z: error_feedback(noise_multiplier=z)),
    "error_feedback with G": example(lambda z: error_feedback(noise_multiplier=z, largest=3.0)),
    "nu_ftrl steps": example(lambda z: correlated_dp_sgd(NU, noise_multiplier=z), "ordered"),
    "banded steps": example(lambda z: correlated_dp_sgd(BANDED, noise_multiplier=z), "ordered"),
    "blt steps": example(lambda z: correlated_dp_sgd(BLT, noise_multiplier=z), "ordered"),
    "client_dp": client(lambda z: client_dp(noise_multiplier=z)),
    "client_dp per layer": client(lambda z: client_dp(noise_multiplier=z, clip=per_layer(1.5))),
    "client_dp fixed": client(lambda z: client_dp(noise_multiplier=z), "fixed"),
    "client_dp quantile": client(
        lambda z: client_dp(noise_multiplier=z, clip=quantile(0.7, count_noise=2.0)), clip=0.7
    ),
    "correlated_noise": client(lambda z: correlated_noise(NU, noise_multiplier=z), "cyclic"),
    "correlated_noise blt": client(lambda z: correlated_noise(BLT, noise_multiplier=z), "cyclic"),
    "local_dp": client(lambda z: local_dp(noise_multiplier=z), "fixed", mean("uniform")),
}
CLIENT = [name for name, case in MECHANISMS.items() if case.unit == "client"]
EXAMPLE = [name for name, case in MECHANISMS.items() if case.unit == "example"]
POISSON = [name for name, case in MECHANISMS.items() if case.kind == "poisson"]

QUIET = 1e-6  # a noise multiplier at which noise is too small to matter


# --- the linear world ----------------------------------------------------------------------------


def shaped(flat: Tensor, shapes=None) -> Tree:
    """A vector as a tree of these shapes."""
    shapes = shapes or SHAPES
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    parts = torch.split(flat, sizes)
    return {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def linear_world(case: Case, contributions: Tensor, z=QUIET, seed=1, shapes=None, **changes):
    """Everybody takes part in one step with what they have; [n, d]."""
    n = len(contributions)
    examples = Examples(contributions, torch.zeros(n, dtype=torch.int64))
    dataset = Dataset(name="linear", train=examples, test=examples, num_classes=1)
    whole = {
        "poisson": batch_plans.poisson_batches(steps=1, sampling_prob=1.0),
        "ordered": batch_plans.ordered_epochs(epochs=1, batch_size=n),
    }
    parts = case.parts(z)
    if case.unit == "example":
        sizes, parts = (n,), {"aggregator": mean("uniform"), "plan": whole[case.kind]} | parts
        parts["plan"] = whole[case.kind]
    else:
        sizes = (1,) * n
        parts["plan"] = batch_plans.shuffled_epochs(epochs=1, batch_size=1)
    given = {
        "sizes": sizes,
        "data": Source(name="linear", load=lambda _: dataset),
        "split": partition.given(np.repeat(np.arange(len(sizes)), sizes)),
        "task": linear_task(shapes or SHAPES),
        "strategy": fedavg(steps=sgd(1.0)),
        "cohort": len(sizes),
        "rounds": 40,
        **parts,
    }
    settings = Settings(seed=seed, width=len(sizes), workers=1, device="cpu")
    return prepare(small_world(**(given | changes)), settings)


def work_of(prepared: PreparedRun, held: ServerState, clients, round_num=1) -> Work:
    """A round with this cohort, with its ledger_entries."""
    return Work(
        round_num=round_num,
        broadcast=prepared.scenario.strategy.broadcast(held.strategy, round_num),
        clients=list(clients),
        accepted={},
        entries=ledger_entries(prepared, held, round_num, list(clients)),
    )


@dataclass(frozen=True)
class Release:
    """What a round released, as the sum that its sensitivity is of; [d]. held: what came of it."""

    total: Tensor
    entries: tuple[Entry, ...]
    held: ServerState


def divisor(case: Case, units: int) -> float:
    """What the sum was divided by before it was released."""
    return float(units) if case.summed else 1.0


def released(case: Case, contributions: Tensor, z=QUIET, seed=1, **changes) -> Release:
    """What the first round releases of these contributions, by the run's own code."""
    prepared = linear_world(case, contributions, z, seed, **changes)
    held = begin(prepared)
    work = work_of(prepared, held, range(prepared.scenario.population))
    outcome = finish_round(prepared, held, work, direct(prepared)(work))
    moved = flatten_exactly(prepared.scenario.strategy.params(outcome.state.strategy))  # from zero
    return Release(moved * divisor(case, len(contributions)), work.entries, outcome.state)


# --- a world of several rounds -------------------------------------------------------------------


def several_rounds(case: Case, z=1.0, **changes) -> Scenario:
    """Six clients of 1 to 20 examples, three rounds."""
    return small_world(**({"evaluate_every": 2} | case.parts(z) | changes))


def opened(scenario: Scenario, seed=1, width=3) -> PreparedRun:
    return prepare(scenario, Settings(seed=seed, width=width, workers=1, device="cpu"))


class Stopped(Exception):
    """The run was killed."""


@dataclass
class Killer:
    """An observer that ends the run, as a kill would, after a round."""

    last: int

    def run_started(self, rounds, done, folder):
        pass

    def round_done(self, metrics):
        if metrics["round"] == self.last:
            raise Stopped

    def run_done(self, result):
        pass


def run_into(path, scenario: Scenario, *, resume=False, last=None, seed=1, width=3) -> Finished:
    """A whole run with a folder, without pictures."""
    prepared = opened(scenario, seed, width)
    description = describe("small", {}, prepared, "cohort")
    folder = (RunFolder.reopen if resume else RunFolder.create)(path, description)
    states = ClientStates(prepared.client_template)
    try:
        return simulate(
            prepared,
            direct(prepared, states),
            folder,
            [Killer(last or -1)],
            states,
            clock=lambda: 0.0,
        )
    finally:
        folder.close()


def cut(replies, size):
    """Replies in portions of so many rows."""
    for portion in replies:
        if portion.update is None:
            yield portion
            continue
        for start in range(0, len(portion.clients), size):
            rows = slice(start, start + size)
            update = replace(
                portion.update,
                diff={name: value[rows] for name, value in portion.update.diff.items()},
                num_examples=portion.update.num_examples[rows],
            )
            yield Replies(clients=portion.clients[rows], update=update, losses=portion.losses[rows])
