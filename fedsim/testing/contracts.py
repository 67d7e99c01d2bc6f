"""The contracts that every strategy keeps.

Each check is one function whose docstring is the contract, word for word. It raises
`ContractError` where the contract is broken. The world is small: six clients with 1 to 20
examples and one with none, a linear model with a hidden layer, milliseconds a round.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch

from fedsim.core import trees
from fedsim.core.scenario import AnyStrategy
from fedsim.core.trees import Tree
from fedsim.flower.grid import in_process
from fedsim.server.round import begin, finish_round, plan_round
from fedsim.testing.reference import run_reference
from fedsim.testing.world import (
    EMPTY,
    LARGEST,
    PLAN,
    ROUNDS,
    SIZES,
    direct,
    in_reverse,
    model_after,
    over_grid,
    over_wire,
    run_rounds,
    work_for,
    world,
)
from fedsim.training.client_state import ClientStates
from strategies import batch_plans, client_selection
from strategies.aggregators import mean

_CLOSE = 1e-5  # float32 rounding over three rounds of about thirty steps


class ContractError(AssertionError):
    """A strategy or a mechanism breaks its contract."""


def check_strategy(strategy: AnyStrategy) -> None:
    """Put a strategy through the whole battery.

    Raises:
        ContractError: it breaks a contract; the message is the contract.
    """
    for check in STRATEGY_CHECKS:
        check(strategy)


# --- the contracts -------------------------------------------------------------------------------


def keeps_names_shapes_and_types(strategy: AnyStrategy) -> None:
    """The model keeps its names, shapes and types from round to round."""
    prepared = world(strategy)
    before, after = prepared.initial_params, model_after(prepared, direct)
    same = before.keys() == after.keys() and all(
        before[name].shape == after[name].shape and before[name].dtype == after[name].dtype
        for name in before
    )
    _hold(same, keeps_names_shapes_and_types, strategy)


def changes_none_of_its_arguments(strategy: AnyStrategy) -> None:
    """No function changes its arguments."""
    prepared = world(strategy)
    held = begin(prepared)
    copy = [leaf.clone() for leaf in trees.leaves(held)]
    work = plan_round(prepared, held, 1, {}, direct(prepared))
    sent = [leaf.clone() for leaf in trees.leaves(work.broadcast)]
    replies = list(direct(prepared)(work))
    finish_round(prepared, held, work, replies)
    untouched = _equal(copy, trees.leaves(held)) and _equal(sent, trees.leaves(work.broadcast))
    _hold(untouched, changes_none_of_its_arguments, strategy)


def same_seed_same_bits(strategy: AnyStrategy) -> None:
    """The same seed gives the same bits; another seed gives another model."""
    first, again = (model_after(world(strategy), direct) for _ in range(2))
    other = model_after(world(strategy, seed=2), direct)
    same = _equal(trees.leaves(first), trees.leaves(again))
    differs = not _equal(trees.leaves(first), trees.leaves(other))
    _hold(same and differs, same_seed_same_bits, strategy)


def learns(strategy: AnyStrategy) -> None:
    """A few rounds move the model, and every number of it stays finite."""
    prepared = world(strategy)
    model = model_after(prepared, direct)
    moved = not _equal(trees.leaves(prepared.initial_params), trees.leaves(model))
    finite = all(bool(torch.isfinite(leaf).all()) for leaf in model.values())
    _hold(moved and finite, learns, strategy)


def every_width_agrees(strategy: AnyStrategy) -> None:
    """Clients trained one by one and as one stack give the same model to float rounding."""
    alone, stacked = (model_after(world(strategy, width=width), direct) for width in (1, 7))
    _hold(_close(alone, stacked), every_width_agrees, strategy)


def agrees_with_the_reference(strategy: AnyStrategy) -> None:
    """The slow, plain twin in `fedsim.testing.reference` gives the same model to float rounding."""
    prepared = world(strategy)
    slow, fast = run_reference(prepared, ROUNDS)[-1], model_after(prepared, direct)
    _hold(_close(slow, fast), agrees_with_the_reference, strategy)


def order_does_not_matter(strategy: AnyStrategy) -> None:
    """Replies in another order give the same model to float rounding."""
    forth = model_after(world(strategy, width=1), direct)
    back = model_after(world(strategy, width=1), in_reverse)
    _hold(_close(forth, back), order_does_not_matter, strategy)


def grid_and_wire_agree(strategy: AnyStrategy) -> None:
    """In this process, over the grid, and serialised on the wire, the model is the same."""
    here = model_after(world(strategy), direct)
    with in_process():
        grid = model_after(world(strategy), over_grid)
        wire = model_after(world(strategy, width=1), over_wire)
    _hold(_close(here, grid) and _close(here, wire), grid_and_wire_agree, strategy)


def resumes_bit_for_bit(strategy: AnyStrategy) -> None:
    """Saved after a round and loaded in a new process, the run goes on bit for bit."""
    prepared = world(strategy)
    through = model_after(prepared, direct)
    states = ClientStates(prepared.client_template)
    half = run_rounds(prepared, direct(prepared, states), range(1, 3))
    stream = io.BytesIO()
    saved = {
        "server": trees.leaves(half.held),
        "clients": states.export(),
        "accepted": half.accepted,
    }
    torch.save(saved, stream)
    loaded = torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
    fresh = world(strategy)
    revived = ClientStates(fresh.client_template)
    revived.restore(loaded["clients"])
    held = trees.rebuild(begin(fresh), loaded["server"])
    exchange = direct(fresh, revived)
    rest = run_rounds(fresh, exchange, range(3, ROUNDS + 1), held, loaded["accepted"])
    same = _equal(trees.leaves(through), trees.leaves(rest.models[-1]))
    _hold(same, resumes_bit_for_bit, strategy)


def a_nan_client_is_left_out(strategy: AnyStrategy) -> None:
    """A client whose update is not finite is left out and named; the others count as without it."""
    poisoned, clean = world(strategy, poison=LARGEST), world(strategy)
    held = begin(poisoned)
    everyone = list(range(len(SIZES)))
    outcome = finish_round(
        poisoned, held, w := work_for(poisoned, held, everyone), direct(poisoned)(w)
    )
    others = [client for client in everyone if client != LARGEST]
    expected = finish_round(clean, held, w := work_for(clean, held, others), direct(clean)(w))
    named = list(outcome.rejected) == [LARGEST] and LARGEST not in outcome.accepted
    same = _close(strategy.params(outcome.state.strategy), strategy.params(expected.state.strategy))
    _hold(named and same, a_nan_client_is_left_out, strategy)


def without_replies_nothing_changes(strategy: AnyStrategy) -> None:
    """When no reply can be used, the server keeps its state bit for bit."""
    prepared = world(strategy)
    held = begin(prepared)
    work = work_for(prepared, held, [EMPTY])
    outcome = finish_round(prepared, held, work, direct(prepared)(work))
    same = _equal(trees.leaves(held), trees.leaves(outcome.state))
    _hold(same and outcome.empty == [EMPTY], without_replies_nothing_changes, strategy)


def an_empty_client_changes_nothing(strategy: AnyStrategy) -> None:
    """A cohort with a client that has no examples gives what it gives without that client."""
    prepared = world(strategy)
    held = begin(prepared)
    models = []
    for clients in ([1, 3, LARGEST], [1, EMPTY, 3, LARGEST]):
        work = work_for(prepared, held, clients)
        outcome = finish_round(prepared, held, work, direct(prepared)(work))
        models.append(strategy.params(outcome.state.strategy))
    same = _equal(trees.leaves(models[0]), trees.leaves(models[1]))
    _hold(same, an_empty_client_changes_nothing, strategy)


def a_cohort_of_one_works(strategy: AnyStrategy) -> None:
    """A cohort of one client, with one example, gives a finite model."""
    prepared = world(strategy)
    held = begin(prepared)
    work = work_for(prepared, held, [0])
    outcome = finish_round(prepared, held, work, direct(prepared)(work))
    leaves = trees.leaves(strategy.params(outcome.state.strategy))
    finite = all(bool(torch.isfinite(leaf).all()) for leaf in leaves)
    _hold(finite and outcome.accepted == [0], a_cohort_of_one_works, strategy)


def a_lost_reply_leaves_no_trace(strategy: AnyStrategy) -> None:
    """A client whose reply was lost goes on from the state it had before."""
    prepared = world(strategy)
    held = begin(prepared)
    models = []
    for rounds_before in ([], [1]):  # never asked, or asked and the reply lost
        states = ClientStates(prepared.client_template)
        exchange = direct(prepared, states)
        for round_num in rounds_before:
            list(exchange(work_for(prepared, held, [3, LARGEST], round_num)))
        work = work_for(prepared, held, [3, LARGEST], 2)
        outcome = finish_round(prepared, held, work, exchange(work))
        models.append(strategy.params(outcome.state.strategy))
    same = _equal(trees.leaves(models[0]), trees.leaves(models[1]))
    _hold(same, a_lost_reply_leaves_no_trace, strategy)


def composes(strategy: AnyStrategy) -> None:
    """Every batch plan, selection and weighting can be combined with it."""
    for plan in (PLAN, batch_plans.random_batches(steps=3, batch_size=2)):
        for choice in (client_selection.uniform(), client_selection.poisson()):
            for combine in (mean("examples"), mean("uniform")):
                parts: dict[str, Any] = {"plan": plan, "selection": choice, "aggregator": combine}
                model = model_after(world(strategy, **parts), direct)
                finite = all(bool(torch.isfinite(leaf).all()) for leaf in model.values())
                _hold(finite, composes, strategy)


STRATEGY_CHECKS: tuple[Callable[[AnyStrategy], None], ...] = (
    keeps_names_shapes_and_types,
    changes_none_of_its_arguments,
    same_seed_same_bits,
    learns,
    every_width_agrees,
    agrees_with_the_reference,
    order_does_not_matter,
    grid_and_wire_agree,
    resumes_bit_for_bit,
    a_nan_client_is_left_out,
    without_replies_nothing_changes,
    an_empty_client_changes_nothing,
    a_cohort_of_one_works,
    a_lost_reply_leaves_no_trace,
    composes,
)


def _equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _close(first: Tree, second: Tree) -> bool:
    return all(torch.allclose(first[k], second[k], rtol=_CLOSE, atol=_CLOSE) for k in first)


def _hold(holds: bool, contract: Callable[[AnyStrategy], None], strategy: AnyStrategy) -> None:
    if not holds:
        raise ContractError(f"{strategy.name} breaks its contract: {contract.__doc__}")
