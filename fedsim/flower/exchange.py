"""The ServerApp, and the exchange of work and replies over any Flower Grid.

Runs on one machine do not come here: their exchange is in `fedsim.flower.cohort`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedsim.core.errors import InputError
from fedsim.flower.grid import CohortGrid
from fedsim.flower.messages import WORK, read_replies, read_scores, train_messages
from fedsim.flower.wire import named_leaves, need
from fedsim.server.setup import PreparedRun
from fedsim.server.transport import Exchange, Replies, Work

_POLL = 0.05  # seconds between two pulls from a remote grid


def server_app(run: Callable[[Context, Callable[[PreparedRun], Exchange]], None]) -> ServerApp:
    """A ServerApp that runs a scenario over the grid it is given.

    Args:
        run: what to do with the context and a way to reach the clients of a prepared run.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run(context, lambda prepared: grid_exchange(grid, prepared))

    return app


def grid_exchange(grid: Grid, prepared: PreparedRun) -> Exchange:
    """Work and replies as Flower Messages: one message to one client, replies as they come.

    A node may host many clients. It gets one message at a time, so that the state that Flower keeps
    for it is never written by two at once.

    Raises:
        InputError: (when used) a node does not say which partition it hosts.
    """
    known: dict[int, int] = {}  # partition -> node
    expected = named_leaves(prepared.diff_template)

    def exchange(work: Work) -> Iterator[Replies]:
        if not known:
            known.update(hosts(grid))
        for wave in _waves(work.clients, len(known)):
            messages = train_messages(work, wave, known)
            for portion in _collect(grid, messages, wave):
                if work.kind == "score":
                    yield read_scores(portion)
                else:
                    yield read_replies(portion, expected, prepared.diff_template, prepared.device)

    return exchange


def hosts(grid: Grid) -> dict[int, int]:
    """Which node hosts which partition; waits until every partition has one.

    Raises:
        InputError: a node does not say which share of the population it hosts.
    """
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
