"""The ClientApp: local work on one node, or of a whole cohort in this process.

Both go through `_replies`: a node of Flower's engine calls it for one client, the CohortGrid for a
cohort of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.crew import Alone, Crew
from fedsim.experiment import Experiment
from fedsim.flower.grid import CohortAnswer
from fedsim.flower.replies import RowReply, idle_reply
from fedsim.flower.wire import found, need, pack, unpack
from fedsim.states import ClientStates

BROADCAST, WORK, STATE = "broadcast", "work", "fedsim-state"


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
        hosted = int(context.node_config.get("partition-id", 0))
        asked = {_client(message, hosted): message}
        ((reply,),) = _replies(experiment, states, Alone(experiment.trainer), asked)
        exported = _write_states(states)
        if exported is not None:
            context.state[STATE] = exported
        return Message(reply.content, reply_to=message)  # Flower's own kind, for its own wire

    @app.query()
    def query(message: Message, context: Context) -> Message:
        """Which share of the population this node hosts."""
        keys = ("partition-id", "num-partitions")
        known = {key: context.node_config[key] for key in keys if key in context.node_config}
        return Message(RecordDict({WORK: ConfigRecord(dict(known))}), reply_to=message)

    return app


def cohort_answer(
    experiment: Experiment, states: ClientStates, crew: Crew | None = None
) -> CohortAnswer:
    """What lets a CohortGrid answer the train messages of a round together, chunk by chunk.

    Args:
        experiment: what is run.
        states: the clients' states.
        crew: who trains; this process by default.
    """
    hands = crew or Alone(experiment.trainer)

    def answer(messages: list[Message]) -> Iterator[list[Message]]:
        asked = {_client(m, hosted=m.metadata.dst_node_id - 1): m for m in messages}
        return _replies(experiment, states, hands, asked)

    return answer


def _client(message: Message, hosted: int) -> int:
    """Which client a message asks: the one it names, or the only one that its node hosts."""
    return int(need(message.content, WORK, ConfigRecord).get("client", hosted))  # type: ignore[arg-type]


def _replies(
    experiment: Experiment, states: ClientStates, crew: Crew, asked: dict[int, Message]
) -> Iterator[list[Message]]:
    """Train the clients of these messages, all of one round; client -> message."""
    trainer, clients = experiment.trainer, list(asked)
    counts = trainer.population.counts_of(clients)
    idle = [asked[client] for client, count in zip(clients, counts, strict=True) if not count]
    if idle:
        yield [idle_reply(message) for message in idle]
    chunks = list(trainer.chunks(clients))
    if not chunks:
        return
    first = next(iter(asked.values()))
    works = ((c, need(message.content, WORK, ConfigRecord)) for c, message in asked.items())
    accepted = {c: int(work["accepted"]) for c, work in works if "accepted" in work}  # type: ignore[arg-type]
    record = need(first.content, BROADCAST, ArrayRecord)
    broadcast = unpack(record, experiment.broadcast_template, trainer.device)
    round_num = int(first.metadata.group_id)
    trainings = crew.train(
        round_num, broadcast, chunks, lambda chunk: states.fetch(chunk, accepted)
    )
    for trained in trainings:
        states.hold(trained.clients, round_num, trained.states)
        yield [RowReply(asked[c], trained, row) for row, c in enumerate(trained.clients)]


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
