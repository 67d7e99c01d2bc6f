"""The ClientApp: local work of one client at a time on a node of Flower's engine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.flower.cohort import read_orders, score_clients, train_clients
from fedsim.flower.messages import WORK
from fedsim.flower.wire import found, pack
from fedsim.server.setup import PreparedRun
from fedsim.training.client_state import ClientStates
from fedsim.training.executor import InThisProcess

STATE = "fedsim-state"


def client_app(prepare: Callable[[Context], PreparedRun]) -> ClientApp:
    """A ClientApp that trains the client that a message names.

    Args:
        prepare: the run of this node; called for every message, so it should cache.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        prepared = prepare(context)
        states = ClientStates(prepared.client_template)
        kept = found(context.state, STATE, ArrayRecord)
        if kept is not None:
            states.restore(_read_states(kept))
        orders = read_orders([message], lambda _: int(context.node_config["partition-id"]))
        ((reply,),) = train_clients(prepared, states, InThisProcess(prepared.trainer), orders)
        exported = _write_states(states)
        if exported is not None:
            context.state[STATE] = exported
        return Message(reply.content, reply_to=message)  # Flower's own kind, for its own wire

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        prepared = prepare(context)
        orders = read_orders([message], lambda _: int(context.node_config["partition-id"]))
        (reply,) = score_clients(prepared, orders)
        return Message(reply.content, reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        """Which share of the population this node hosts."""
        keys = ("partition-id", "num-partitions")
        known = {key: context.node_config[key] for key in keys if key in context.node_config}
        return Message(RecordDict({WORK: ConfigRecord(dict(known))}), reply_to=message)

    return app


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
