"""The ServerApp, and the exchange of work and replies over any Flower Grid."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedsim.experiment import Experiment
from fedsim.flower.client import BROADCAST, METRICS, UPDATE, WORK
from fedsim.flower.grid import CohortGrid
from fedsim.flower.wire import found, misfit, named_leaves, need, pack, stack_records
from fedsim.rounds import Exchange, Replies, Work
from fedsim.types import Tree, Update
from fedsim.validate import InputError

_POLL = 0.05  # seconds between looks at a remote grid


def server_app(run: Callable[[Context, Callable[[Experiment], Exchange]], None]) -> ServerApp:
    """A ServerApp that runs an experiment over the grid it is given.

    Args:
        run: what to do with the context and a way to reach the clients of an experiment.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run(context, lambda experiment: grid_exchange(grid, experiment))

    return app


def grid_exchange(grid: Grid, experiment: Experiment) -> Exchange:
    """Work and replies as Flower Messages: one message to one client, replies as they come.

    A node may host many clients. It gets one message at a time, so that the state that Flower keeps
    for it is never written by two at once.

    Raises:
        InputError: (when used) a node does not say which partition it hosts.
    """
    known: dict[int, int] = {}  # partition -> node
    expected = named_leaves(experiment.diff_template)

    def exchange(work: Work) -> Iterator[Replies]:
        if not known:
            known.update(hosts(grid))
        record = pack(work.broadcast)
        for wave in _waves(work.clients, len(known)):
            messages = [
                train_message(record, client, work, known[client % len(known)]) for client in wave
            ]
            for portion in _collect(grid, messages, wave):
                yield read_replies(portion, expected, experiment.diff_template, experiment.device)

    return exchange


def train_message(record: object, client: int, work: Work, node: int) -> Message:
    """The message that asks a client for one round of local work.

    Its group is the round, as Flower means it; what a record does not hold costs nothing.
    """
    config = ConfigRecord({"client": client})
    if client in work.accepted:
        config["accepted"] = work.accepted[client]
    content = RecordDict({BROADCAST: record, WORK: config})  # type: ignore[dict-item]
    return Message(content, node, "train", group_id=str(work.round_num))


def read_replies(
    replies: Mapping[int, Message],
    expected: Mapping[str, torch.Tensor],
    like: Tree,
    device: torch.device,
) -> Replies:
    """Flower replies (client -> message) as our record; what cannot be used is named."""
    clients: list[int] = []
    records: list[ArrayRecord] = []
    sizes: list[float] = []
    losses: list[float] = []
    failures: dict[int, str] = {}
    empty: list[int] = []
    for client, reply in replies.items():
        if reply.has_error():
            failures[client] = reply.error.reason or f"error {reply.error.code}"
            continue
        metrics = found(reply.content, METRICS, MetricRecord)
        update = found(reply.content, UPDATE, ArrayRecord)
        size = None if metrics is None else metrics.get("num-examples")
        loss = None if metrics is None else metrics.get("train-loss", math.nan)
        if not isinstance(size, int | float) or not isinstance(loss, int | float):
            failures[client] = "the reply has no metrics"
        elif size == 0:
            empty.append(client)
        elif not size > 0:
            failures[client] = f"the reply claims {size} examples"
        elif update is None:
            failures[client] = "the reply has no update"
        elif fault := misfit(update, expected):
            failures[client] = fault
        else:
            clients.append(client)
            records.append(update)
            sizes.append(float(size))
            losses.append(float(loss))
    if not clients:
        return Replies(empty=empty, failures=failures)
    return Replies(
        clients=clients,
        update=Update(stack_records(records, like, device), torch.tensor(sizes, device=device)),
        losses=losses,
        empty=empty,
        failures=failures,
    )


def hosts(grid: Grid) -> dict[int, int]:
    """Which node hosts which partition; waits until every partition has one."""
    if isinstance(grid, CohortGrid):
        return {node - 1: node for node in grid.get_node_ids()}
    while True:
        nodes = list(grid.get_node_ids())
        asked = [Message(RecordDict(), node, "query", group_id="0") for node in nodes]
        found: dict[int, int] = {}
        expected = 1
        for reply in grid.send_and_receive(asked) if asked else ():
            if reply.has_error():
                continue
            config = need(reply.content, WORK, ConfigRecord)
            if "partition-id" not in config or "num-partitions" not in config:
                raise InputError(
                    "nodes: every SuperNode must say its share of the population; got one "
                    "without. Start it with --node-config 'partition-id=0 num-partitions=2'."
                )
            found[int(config["partition-id"])] = reply.metadata.src_node_id  # type: ignore[arg-type]
            expected = int(config["num-partitions"])  # type: ignore[arg-type]
        if set(found) == set(range(expected)):
            return found
        time.sleep(1)


def _waves(clients: list[int], nodes: int) -> Iterator[list[int]]:
    """Cut a cohort so that each node has at most one client in each wave."""
    waves: list[list[int]] = []
    depth: dict[int, int] = {}
    for client in clients:
        host = client % nodes
        turn = depth.get(host, 0)
        depth[host] = turn + 1
        if turn == len(waves):
            waves.append([])
        waves[turn].append(client)
    return iter(waves)


def _collect(
    grid: Grid, messages: list[Message], clients: list[int]
) -> Iterator[dict[int, Message]]:
    """Push messages and yield replies by client, as they come, until each has one."""
    ids = list(grid.push_messages(messages))
    waiting = {number: client for number, client in zip(ids, clients, strict=True) if number}
    if len(waiting) < len(clients):
        lost = sorted(set(clients) - set(waiting.values()))
        raise ConnectionError(f"the grid did not take the messages to clients {lost}")
    while waiting:
        replies: Iterable[Message] = list(grid.pull_messages(list(waiting)))
        portion = {waiting.pop(reply.metadata.reply_to_message_id): reply for reply in replies}
        if portion:
            yield portion
        else:
            time.sleep(_POLL)
