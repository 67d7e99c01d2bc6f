"""Run the local work of a chunk of clients: one client's functions, mapped over stacks.

Clients of a chunk may have different numbers of steps. The steps are cut into spans in which the
same clients are busy; each span is one program.

Shapes: k clients of the chunk, b examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from fedsim.core import trees
from fedsim.core.batch import Batch
from fedsim.core.trees import Tree


class LocalWork(NamedTuple):
    """Beginning, steps and end of one client's local work.

    init and end take the client's number, too: vmap needs a tensor of the chunk's length, and a
    strategy without client state has none.
    """

    init: Callable[..., Any]
    steps: Callable[..., Any]
    end: Callable[..., Any]


class Span(NamedTuple):
    """Steps start to stop, which the first `clients` of a chunk take."""

    start: int
    stop: int
    clients: int


Result = tuple[Tree, Any, Tensor]
"""Diffs, new states, and sums of losses, [k, ...] each."""


def run_chunk(
    work: LocalWork,
    spans: list[Span],
    gather: Callable[[Span], Batch],
    ids: Tensor,
    states: Any,
    facts: Any,
) -> Result:
    """Run the local work of a chunk of clients.

    Args:
        work: of one client.
        spans: of the chunk's steps.
        gather: a span -> its batches, [clients, steps, b, ...].
        ids: the clients' numbers [k].
        states: a stack.
        facts: a stack, or ().
    """
    if len(spans) > 1:
        return _run_in_spans(work, spans, gather, ids, states, facts)

    def whole(ids: Tensor, batches: Batch, state: Any, facts: Any) -> Any:
        local, loss = work.steps(work.init(state, ids), batches, state, facts)
        return *work.end(local, state, ids), loss

    # All clients have as many steps, and not too many: one program from end to end.
    result: Result = mapped(whole, len(ids))(ids, gather(spans[0]), states, facts)
    return result


def _run_in_spans(
    work: LocalWork,
    spans: list[Span],
    gather: Callable[[Span], Batch],
    ids: Tensor,
    states: Any,
    facts: Any,
) -> Result:
    """One program for each span; clients without a step left wait for the end."""
    clients = len(ids)
    local = mapped(work.init, clients)(states, ids)
    losses = torch.zeros(clients, device=ids.device)
    finished: list[Any] = []  # rows of clients that have no step left, shortest first
    for span in spans:
        finished.append(_rows(local, span.clients, None))
        busy = (_rows(stack, 0, span.clients) for stack in (states, facts))
        local, loss = mapped(work.steps, span.clients)(
            _rows(local, 0, span.clients), gather(span), *busy
        )
        losses[: span.clients] += loss
    local = _concatenate([local, *reversed(finished)])
    diff, new_states = mapped(work.end, clients)(local, states, ids)
    return diff, new_states, losses


def spans_of(steps: list[int], most: int) -> Iterator[Span]:
    """Cut a chunk's steps where a client has none left, and after `most` of them.

    The clients' steps must not increase.

    Raises:
        ValueError: they do; a plan's schedule must have the steps that its num_steps says.
    """
    start = 0
    if steps != sorted(steps, reverse=True):
        raise ValueError(f"train: clients must come longest first; got {steps} steps.")
    for clients in range(len(steps), 0, -1):
        stop = steps[clients - 1]
        while start < stop:
            yield Span(start, min(stop, start + most), clients)
            start = min(stop, start + most)


def mapped(function: Callable[..., Any], clients: int) -> Callable[..., Any]:
    """A function of one client as a function of stacks of several."""
    return vmap(function) if clients > 1 else _as_stack_of_one(function)


def _as_stack_of_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """`vmap` for a stack of one: the function itself, without vmap's overhead."""

    def run(*stacks: Any) -> Any:
        single = function(*(trees.map_leaves(stack, lambda t: t[0]) for stack in stacks))
        return trees.map_leaves(single, lambda t: t.unsqueeze(0))

    return run


def _rows(stack: Any, start: int, stop: int | None) -> Any:
    """Rows start to stop of every tensor of a stack; views, no copies."""
    return trees.map_leaves(stack, lambda t: t[start:stop])


def _concatenate(stacks: list[Any]) -> Any:
    """Stacks of the same structure, one below the other."""
    if len(stacks) == 1:
        return stacks[0]
    columns = zip(*(trees.leaves(stack) for stack in stacks), strict=True)
    return trees.rebuild(stacks[0], [torch.cat(parts) for parts in columns])
