"""The inputs of a run, for an algorithm written by hand: data, first model, cohorts and batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fedsim.core.dataset import Examples
from fedsim.core.scenario import Scenario
from fedsim.core.settings import Settings
from fedsim.core.trees import Tree
from fedsim.server.setup import PreparedRun, prepare
from fedsim.testing.reference import batches_of, begin, choose_cohort


@dataclass(frozen=True)
class RunInputs:
    """What a run with the same scenario and seed uses; its algorithm is up to the caller.

    Cohorts and batches are right where selection and batch plan look at nothing that the algorithm
    computes (no curricula), and the selection keeps nothing from round to round.
    """

    prepared: PreparedRun

    @property
    def params(self) -> Tree:
        """The first model's parameters, by the names of its `state_dict`."""
        return {name: tensor.clone() for name, tensor in self.prepared.initial_params.items()}

    @property
    def test(self) -> Examples:
        """The test examples, x [n, ...] and y [n]."""
        dataset = self.prepared.dealt.dataset
        return Examples(dataset.ready(dataset.test.x), dataset.test.y)

    def cohort(self, round_num: int) -> list[int]:
        """The clients of a round, counted from 1."""
        return choose_cohort(self.prepared, begin(self.prepared), round_num)[0]

    def num_examples(self, client: int) -> int:
        """The number of a client's training examples."""
        return self.prepared.trained_on.counts_of([client])[0]

    def batches(self, round_num: int, client: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A client's batches of a round in order: x [b, ...] and y [b]."""
        for batch in batches_of(self.prepared, round_num, None, client, None):
            real = batch.mask > 0  # without padding
            yield batch.x[real], batch.y[real]


def inputs_of(scenario: Scenario, seed: int = 1) -> RunInputs:
    """The inputs of the run of a scenario on the CPU."""
    return RunInputs(prepare(scenario, Settings(seed=seed, width=1, workers=1, device="cpu")))
