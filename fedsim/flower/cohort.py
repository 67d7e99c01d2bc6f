"""The cohort runtime: a run's Messages, answered in this process a chunk of clients at a time.

One message goes to each client and one reply comes back from it, as in Flower; only the transport
is a function call. `fedsim.flower.exchange` is the same over any Flower Grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, Message

from fedsim.flower.grid import CohortAnswer
from fedsim.flower.messages import (
    BROADCAST,
    WORK,
    RowReply,
    idle_reply,
    read_replies,
    read_scores,
    score_reply,
    train_messages,
)
from fedsim.flower.wire import named_leaves, need, unpack
from fedsim.server.setup import PreparedRun
from fedsim.server.transport import Exchange, Replies, Work
from fedsim.training.client_state import ClientStates
from fedsim.training.evaluation import mean_losses
from fedsim.training.executor import Executor, InThisProcess


def cohort_exchange(
    prepared: PreparedRun, states: ClientStates, executor: Executor | None = None
) -> Exchange:
    """Work and replies of a run in this process: one message to each client, answered in chunks.

    Args:
        prepared: what is run.
        states: the clients' states.
        executor: trains the clients; by default, this process.
    """
    answer = cohort_answer(prepared, states, executor)
    nodes = range(1, prepared.scenario.population + 1)
    like, leaves = prepared.diff_template, named_leaves(prepared.diff_template)

    def exchange(work: Work) -> Iterator[Replies]:
        messages = train_messages(work, work.clients, nodes) if work.clients else []
        for message, client in zip(messages, work.clients, strict=True):
            message.metadata.__dict__["_message_id"] = str(client)
        place = {client: number for number, client in enumerate(work.clients)}
        for replies in answer(messages) if messages else ():
            made = {int(reply.metadata.reply_to_message_id): reply for reply in replies}
            # In the cohort's order, as from any Grid: sums of floats depend on it.
            named = {client: made[client] for client in sorted(made, key=place.__getitem__)}
            if work.kind == "score":
                yield read_scores(named)
            else:
                yield read_replies(named, leaves, like, prepared.device)

    return exchange


def cohort_answer(
    prepared: PreparedRun, states: ClientStates, executor: Executor | None = None
) -> CohortAnswer:
    """What lets a CohortGrid answer the messages of a round together, chunk by chunk.

    Args:
        prepared: what is run.
        states: the clients' states.
        executor: trains the clients; by default, this process.
    """
    executor = executor or InThisProcess(prepared.trainer)

    def answer(messages: list[Message]) -> Iterator[list[Message]]:
        orders = read_orders(messages, lambda message: message.metadata.dst_node_id - 1)
        if messages[0].metadata.message_type == "evaluate":
            return iter([score_clients(prepared, orders)])
        return train_clients(prepared, states, executor, orders)

    return answer


class Orders(NamedTuple):
    """What some messages of one round ask: whom, and which replies were accepted before."""

    asked: dict[int, Message]
    accepted: dict[int, int]


def read_orders(messages: list[Message], hosted: Callable[[Message], int]) -> Orders:
    """Read messages; one that names no client asks the only one that its node hosts."""
    orders = Orders({}, {})
    content, config = None, ConfigRecord()
    for message in messages:
        if message.content is not content:  # most share theirs
            content = message.content
            config = need(content, WORK, ConfigRecord)
        client = int(config["client"]) if "client" in config else hosted(message)  # type: ignore[arg-type]
        orders.asked[client] = message
        if "accepted" in config:
            orders.accepted[client] = int(config["accepted"])  # type: ignore[arg-type]
    return orders


def train_clients(
    prepared: PreparedRun, states: ClientStates, executor: Executor, orders: Orders
) -> Iterator[list[Message]]:
    """Do what some messages of one round ask, chunk by chunk."""
    trainer, asked = prepared.trainer, orders.asked
    counts = trainer.population.counts_of(list(asked))
    idle = [message for message, count in zip(asked.values(), counts, strict=True) if not count]
    if idle:
        yield [idle_reply(message) for message in idle]
    chunks = list(trainer.chunks(list(asked)))
    if not chunks:
        return
    first = next(iter(asked.values()))
    record = need(first.content, BROADCAST, ArrayRecord)
    broadcast = unpack(record, prepared.broadcast_template, trainer.device)
    round_num = int(first.metadata.group_id)
    trainings = executor.train(
        round_num, broadcast, chunks, lambda chunk: states.fetch(chunk, orders.accepted)
    )
    for trained in trainings:
        states.hold(trained.clients, round_num, trained.states)
        yield [RowReply(asked[c], trained, row) for row, c in enumerate(trained.clients)]


def score_clients(prepared: PreparedRun, orders: Orders) -> list[Message]:
    """The loss of the model that some messages carry, on each asked client's own examples."""
    first = next(iter(orders.asked.values()))
    record = need(first.content, BROADCAST, ArrayRecord)
    params = unpack(record, prepared.initial_params, prepared.device)
    asked = list(orders.asked)
    population = prepared.trained_on  # an attacker reports the loss on what it trains on
    losses = mean_losses(prepared.scenario.task, params, population, asked)
    counts = population.counts_of(asked)
    return [
        score_reply(message, count, loss)
        for message, count, loss in zip(orders.asked.values(), counts, losses.tolist(), strict=True)
    ]
