"""The ClientApp: local work on one node, or of a whole cohort in this process.

Both go through `_reply`: a node of Flower's engine calls it for one client, the CohortGrid for a
chunk of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.experiment import Experiment
from fedsim.flower.grid import CohortAnswer
from fedsim.flower.wire import found, need, pack, pack_rows, unpack
from fedsim.states import ClientStates

BROADCAST, WORK, UPDATE, METRICS, STATE = "broadcast", "work", "update", "metrics", "fedsim-state"


def client_app(open_experiment: Callable[[Context], Experiment]) -> ClientApp:
    """A ClientApp that trains whichever of the population's clients a message names.

    Args:
        open_experiment: the experiment of a run; called for every message, so it should cache.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        experiment = open_experiment(context)
        states = ClientStates(experiment.client_template)
        kept = found(context.state, STATE, ArrayRecord)
        if kept is not None:
            states.restore(_read_states(kept))
        replies = _reply(experiment, states, [message])
        exported = _write_states(states)
        if exported is not None:
            context.state[STATE] = exported
        return replies[0]

    @app.query()
    def query(message: Message, context: Context) -> Message:
        """Which share of the population this node hosts."""
        keys = ("partition-id", "num-partitions")
        known = {key: context.node_config[key] for key in keys if key in context.node_config}
        return Message(RecordDict({WORK: ConfigRecord(dict(known))}), reply_to=message)

    return app


def cohort_answer(experiment: Experiment, states: ClientStates) -> CohortAnswer:
    """What lets a CohortGrid answer the train messages of a round together, chunk by chunk."""

    def answer(messages: list[Message]) -> Iterator[list[Message]]:
        by_client = {_client(message): message for message in messages}
        counts = experiment.population.counts_of(list(by_client))
        idle = [m for m, count in zip(by_client.values(), counts, strict=True) if not count]
        if idle:
            yield [_idle(message) for message in idle]
        for chunk in experiment.trainer.chunks(list(by_client)):
            yield _reply(experiment, states, [by_client[c] for c in chunk])

    return answer


def _client(message: Message) -> int:
    return int(need(message.content, WORK, ConfigRecord)["client"])  # type: ignore[arg-type]


def _idle(message: Message) -> Message:
    """The reply of a client without examples: no update, nothing changed."""
    metrics = MetricRecord({"num-examples": 0})
    return Message(RecordDict({METRICS: metrics}), reply_to=message)


def _reply(experiment: Experiment, states: ClientStates, messages: list[Message]) -> list[Message]:
    """Train the clients of these messages as one chunk."""
    trainer = experiment.trainer
    works = [need(message.content, WORK, ConfigRecord) for message in messages]
    clients = [_client(message) for message in messages]
    if trainer.population.counts_of(clients) == [0]:
        return [_idle(messages[0])]
    round_num = int(messages[0].metadata.group_id)
    accepted = {
        client: int(work["accepted"])  # type: ignore[arg-type]
        for client, work in zip(clients, works, strict=True)
        if "accepted" in work
    }
    record = need(messages[0].content, BROADCAST, ArrayRecord)
    broadcast = unpack(record, experiment.broadcast_template, trainer.device)
    trained = trainer.train(round_num, broadcast, clients, states.fetch(clients, accepted))
    states.hold(clients, round_num, trained.states)
    sizes, losses = trained.num_examples.tolist(), trained.losses.tolist()
    return [
        Message(
            RecordDict(
                {
                    UPDATE: update,
                    METRICS: MetricRecord({"num-examples": int(size), "train-loss": loss}),
                }
            ),
            reply_to=message,
        )
        for message, update, size, loss in zip(
            messages, pack_rows(trained.diff), sizes, losses, strict=True
        )
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
