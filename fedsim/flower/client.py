"""The ClientApp: local work on one node, or of a whole cohort in this process.

Both go through `_replies`: a node of Flower's engine calls it for one client, the CohortGrid for a
cohort of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.flower.grid import CohortAnswer
from fedsim.flower.replies import RowReply, idle_reply, score_reply
from fedsim.flower.wire import found, need, pack, unpack
from fedsim.server.setup import PreparedRun
from fedsim.training.client_state import ClientStates
from fedsim.training.evaluation import mean_losses
from fedsim.training.executor import Executor, InThisProcess

BROADCAST, WORK, STATE = "broadcast", "work", "fedsim-state"


def client_app(prepare: Callable[[Context], PreparedRun]) -> ClientApp:
    """A ClientApp that trains whichever of the population's clients a message names.

    Args:
        prepare: the experiment of a run; called for every message, so it should cache.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        prepared = prepare(context)
        states = ClientStates(prepared.client_template)
        kept = found(context.state, STATE, ArrayRecord)
        if kept is not None:
            states.restore(_read_states(kept))
        orders = _orders([message], lambda _: int(context.node_config["partition-id"]))
        ((reply,),) = _replies(prepared, states, InThisProcess(prepared.trainer), orders)
        exported = _write_states(states)
        if exported is not None:
            context.state[STATE] = exported
        return Message(reply.content, reply_to=message)  # Flower's own kind, for its own wire

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        prepared = prepare(context)
        orders = _orders([message], lambda _: int(context.node_config["partition-id"]))
        (reply,) = _scores(prepared, orders)
        return Message(reply.content, reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        """Which share of the population this node hosts."""
        keys = ("partition-id", "num-partitions")
        known = {key: context.node_config[key] for key in keys if key in context.node_config}
        return Message(RecordDict({WORK: ConfigRecord(dict(known))}), reply_to=message)

    return app


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
        orders = _orders(messages, lambda message: message.metadata.dst_node_id - 1)
        if messages[0].metadata.message_type == "evaluate":
            return iter([_scores(prepared, orders)])
        return _replies(prepared, states, executor, orders)

    return answer


class _Orders(NamedTuple):
    """What some messages of one round ask: whom, and which replies were accepted before."""

    asked: dict[int, Message]
    accepted: dict[int, int]


def _orders(messages: list[Message], hosted: Callable[[Message], int]) -> _Orders:
    """Read messages; one that names no client asks the only one that its node hosts."""
    orders = _Orders({}, {})
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


def _replies(
    prepared: PreparedRun, states: ClientStates, executor: Executor, orders: _Orders
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


def _scores(prepared: PreparedRun, orders: _Orders) -> list[Message]:
    """The loss of the model that some messages carry, on each asked client's own examples."""
    first = next(iter(orders.asked.values()))
    record = need(first.content, BROADCAST, ArrayRecord)
    params = unpack(record, prepared.initial_params, prepared.device)
    asked = list(orders.asked)
    people = prepared.trained_on  # an attacker answers for what it trains on
    losses = mean_losses(prepared.scenario.task, params, people, asked)
    counts = people.counts_of(asked)
    return [
        score_reply(message, count, loss)
        for message, count, loss in zip(orders.asked.values(), counts, losses.tolist(), strict=True)
    ]


def _write_states(states: ClientStates) -> ArrayRecord | None:
    """Client states as a record that Flower keeps for the node, or None where there are none."""
    flat = {
        f"{phase}/{client}/{number}": tensor
        for phase, clients in states.export().items()
        for client, tensors in clients.items()
        for number, tensor in enumerate(tensors)
    }
    if not flat:
        return None
    record = ArrayRecord()
    for name, array in zip(flat, pack(flat).values(), strict=True):
        record[name] = array
    return record


def _read_states(record: ArrayRecord) -> dict[str, dict[int, list[torch.Tensor]]]:
    phases: dict[str, dict[int, list[torch.Tensor]]] = {"committed": {}, "pending": {}}
    for name, array in record.items():
        phase, client, _ = name.split("/")
        tensors = phases[phase].setdefault(int(client), [])
        tensors.append(torch.from_numpy(array.numpy()))
    return phases
