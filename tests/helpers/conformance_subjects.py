"""What goes through the conformance kit: our mechanisms, by the run's own code, and Flower's.

A cohort's contributions reach our mechanisms as replies (clients) or as examples of a linear task
(examples), so that whatever a run does to them on the way is part of what is examined.
"""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import strategy as before
from flwr.serverapp import strategy as flower

from fedsim.core.sampling import Sampling
from fedsim.core.updates import Update
from fedsim.server.round import begin, finish_round
from fedsim.server.setup import check_scenario
from fedsim.server.transport import Replies
from fedsim.testing import direct
from fedsim.testing.linear_world import linear_task
from privacy.conformance import Cohort, Subject
from tests.helpers.mechanisms import MECHANISMS, linear_world, work_of

QUIET = 0.01  # the noise multiplier at which all are examined
REPLACEMENT = Sampling(kind="replacement", words="with replacement")


# --- ours ----------------------------------------------------------------------------------------


def ours(name: str, **changes: Any) -> Subject:
    """One of our mechanisms, with the noise multiplier that its ledger line claims."""
    case = replace(MECHANISMS[name], **changes)
    size = 5
    alone = linear_world(case, torch.zeros(size, 34), QUIET)
    (entry,) = work_of(alone, begin(alone), range(alone.scenario.population)).entries
    make = _clients if case.unit == "client" else _examples
    return Subject(
        name=name,
        release=make(case, size),
        clip_norm=case.clip,
        noise_multiplier=entry.noise_multiplier,
        cohort=size,
        unit=case.unit,
        local=name == "local_dp",
    )


def tensors(arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _clients(case, size):
    """Contributions arrive as replies of clients; the server is that of a run."""
    prepared = linear_world(case, torch.zeros(size, 34), QUIET)
    scenario, seeds = prepared.scenario, itertools.count(1)

    def release(cohort: Cohort):
        if cohort.has_duplicates:  # such a sampler has to be declared, and is refused
            selection = replace(scenario.selection, sampling=REPLACEMENT)
            check_scenario(replace(scenario, selection=selection), prepared.settings)
        scenario.mechanism.init(tensors(cohort.like))
        one = replace(prepared, settings=replace(prepared.settings, seed=next(seeds)))
        held, came = begin(one), cohort.contributions
        clients = [contribution.unit for contribution in came]
        replies = []
        if came:
            rows = [tensors(contribution.update) for contribution in came]
            diff = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            examples = torch.tensor([float(contribution.examples) for contribution in came])
            replies = [Replies(clients=clients, update=Update(diff, examples), losses=[0.0] * 9)]
        outcome = finish_round(one, held, work_of(one, held, clients), replies)
        if outcome.state.strategy is held.strategy:
            return None
        return {name: value.numpy() for name, value in _model(scenario, outcome).items()}

    return release


def _examples(case, size):
    """Contributions are examples of one client, of whom those that came are drawn."""
    alone = linear_world(case, torch.zeros(size, 34), QUIET)
    declared, turns = alone.scenario.plan, itertools.count(1)
    correlated = declared.sampling.kind == "ordered" and case.summed
    worlds: dict[int, Any] = {}

    def world(cohort: Cohort, seed: int):
        zeros, drawn = tensors(cohort.like), torch.full((1, 1, size), -1)
        data = torch.zeros(size, sum(tensor.numel() for tensor in zeros.values()))
        for place, contribution in enumerate(cohort.contributions):
            parts = [part.flatten().float() for part in tensors(contribution.update).values()]
            data[contribution.unit], drawn[0, 0, place] = torch.cat(parts), contribution.unit
        task = replace(linear_task(), init=lambda seed: zeros)
        plan = replace(declared, schedule=lambda counts, keys, t, scores=None: drawn)
        return linear_world(case, data, QUIET, seed, task=task, plan=plan)

    def release(cohort: Cohort):
        if cohort.has_duplicates:  # such a sampler has to be declared, and is refused
            plan = replace(declared, sampling=REPLACEMENT)
            check_scenario(replace(alone.scenario, plan=plan), alone.settings)
        turn = next(turns)  # noise is fresh in every round; where it is correlated, in every run
        round_num, seed = (1, turn) if correlated else (turn, 1)
        if correlated or id(cohort) not in worlds:  # held, so that nobody else gets its id
            worlds[id(cohort)] = (world(cohort, seed), cohort)
        prepared = worlds[id(cohort)][0]
        held = begin(prepared)
        work = work_of(prepared, held, [0], round_num)
        outcome = finish_round(prepared, held, work, direct(prepared)(work))
        return {n: value.numpy() for n, value in _model(prepared.scenario, outcome).items()}

    return release


def _model(scenario, outcome):
    return scenario.strategy.params(outcome.state.strategy)


# --- Flower's ------------------------------------------------------------------------------------


def flower_fixed(accountant=None, name="flower fixed clipping") -> Subject:
    """Flower's wrapper around FedAvg, with clipping at the server."""
    wrapper = flower.DifferentialPrivacyServerSideFixedClipping(
        flower.FedAvg(), QUIET, 1.0, 5, accountant=accountant
    )
    return Subject(
        name=name, release=_messages(wrapper), clip_norm=1.0, noise_multiplier=QUIET, cohort=5
    )


def flower_adaptive() -> Subject:
    """The same with a clip norm that follows a quantile, as it is in its first round."""

    def release(cohort: Cohort):
        wrapper = flower.DifferentialPrivacyServerSideAdaptiveClipping(
            flower.FedAvg(), QUIET, 5, initial_clipping_norm=1.0, clip_norm_lr=1e-9
        )
        return _messages(wrapper)(cohort)

    return Subject(
        name="flower adaptive clipping",
        release=release,
        clip_norm=1.0,
        noise_multiplier=QUIET,
        cohort=5,
    )


def _messages(wrapper):
    """Contributions as replies to the messages of a round."""
    rounds = itertools.count(1)

    def release(cohort: Cohort):
        round_num = next(rounds)
        wrapper.current_arrays = _record(cohort.like)
        if getattr(wrapper, "accountant", None) is not None:
            asked = [
                _message({"arrays": wrapper.current_arrays}, unit + 1)
                for unit in range(cohort.drawn)
            ]
            wrapper._prepare_accounting(round_num, asked)  # what configure_train does to them
        replies = [
            _message(
                {
                    "arrays": _record(contribution.update),
                    "metrics": MetricRecord({"num-examples": contribution.examples}),
                },
                contribution.unit + 1,
            )
            for contribution in cohort.contributions
        ]
        arrays, _ = wrapper.aggregate_train(round_num, replies)
        if arrays is None:
            return None
        return dict(zip(arrays.keys(), arrays.to_numpy_ndarrays(), strict=True))

    return release


def _record(arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.array(array)) for name, array in arrays.items()})


def _message(content, node: int) -> Message:
    config = {"config": ConfigRecord({})} if "metrics" not in content else {}
    return Message(content=RecordDict(content | config), message_type="train", dst_node_id=node)


def flower_before() -> Subject:
    """The wrapper of Flower's first interface, which is still there."""
    wrapper = before.DifferentialPrivacyServerSideFixedClipping(before.FedAvg(), QUIET, 1.0, 5)

    def release(cohort: Cohort):
        wrapper.current_round_params = [np.array(array) for array in cohort.like.values()]
        results = [
            (
                None,
                FitRes(
                    status=Status(Code.OK, ""),
                    parameters=ndarrays_to_parameters(
                        [np.array(contribution.update[name]) for name in cohort.like]
                    ),
                    num_examples=contribution.examples,
                    metrics={},
                ),
            )
            for contribution in cohort.contributions
        ]
        parameters, _ = wrapper.aggregate_fit(2, results, [])
        if parameters is None:
            return None
        return dict(zip(cohort.like, parameters_to_ndarrays(parameters), strict=True))

    return Subject(
        name="flower fixed clipping, first interface",
        release=release,
        clip_norm=1.0,
        noise_multiplier=QUIET,
        cohort=5,
    )
