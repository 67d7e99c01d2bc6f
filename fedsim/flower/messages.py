"""Work and replies as Flower Messages: how each is written, and how the other side reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim.core import trees
from fedsim.core.trees import Tree
from fedsim.core.updates import Update
from fedsim.flower.wire import addressed, altered, found, misfit, pack, pack_row, stack_records
from fedsim.server.transport import Replies, Work
from fedsim.training.trainer import Trained

BROADCAST, WORK = "broadcast", "work"  # records of a message to a client
UPDATE, METRICS = "update", "metrics"  # records of its reply


def train_messages(
    work: Work, wave: list[int], nodes: Mapping[int, int] | Sequence[int]
) -> list[Message]:
    """The messages that ask clients for a round's work or losses, in the order of `wave`.

    Their group is the round, as in Flower. Node `nodes[client % len(nodes)]` hosts a client; the
    only client of a node is not named, so that such messages share their content.

    Args:
        work: the round's.
        wave: the clients.
        nodes: partition -> node.
    """
    broadcast = pack(work.broadcast)
    crowded = any(client >= len(nodes) for client in wave)
    alike = RecordDict({BROADCAST: broadcast, WORK: ConfigRecord()})
    kind = "train" if work.kind == "train" else "evaluate"
    first = Message(alike, nodes[wave[0] % len(nodes)], kind, group_id=str(work.round_num))
    messages = []
    for client in wave:
        content = alike
        if crowded or client in work.accepted:
            config = ConfigRecord({"client": client})
            if client in work.accepted:
                config["accepted"] = work.accepted[client]
            content = RecordDict({BROADCAST: broadcast, WORK: config})
        messages.append(addressed(first, nodes[client % len(nodes)], content))
    return messages


class RowReply(Message):
    """The reply of one client of a trained chunk. Its records are made when they are read.

    Within this process they are not: the server sees that the rows are those of a chunk, and
    takes the chunk. So an answer costs the same whatever the number of tensors.
    """

    def __init__(self, message: Message, trained: Trained, row: int) -> None:
        asked = message.metadata.__dict__
        swapped = {
            "_message_id": "",
            "_reply_to_message_id": asked["_message_id"],
            "_src_node_id": asked["_dst_node_id"],
            "_dst_node_id": asked["_src_node_id"],
        }
        # Flower's constructor checks its arguments at ten times the cost of what it does with them.
        self.__dict__.update(
            _metadata=altered(message.metadata, swapped),
            _content=None,
            _error=None,
            _trained=trained,
            _row=row,
        )

    @property
    def content(self) -> RecordDict:
        """The update and the metrics, as any other client would send them."""
        if self.__dict__["_content"] is None:
            self.__dict__["_content"] = row_records(
                self.__dict__["_trained"], self.__dict__["_row"]
            )
        content: RecordDict = self.__dict__["_content"]
        return content

    @content.setter
    def content(self, value: RecordDict) -> None:
        self.__dict__["_content"] = value

    def has_content(self) -> bool:
        """Always: it is made on demand."""
        return True

    def untouched(self) -> tuple[Trained, int] | None:
        """The chunk and the row, as long as the content was neither read nor changed."""
        return (
            None
            if self.__dict__["_content"]
            else (self.__dict__["_trained"], self.__dict__["_row"])
        )


def row_records(trained: Trained, row: int) -> RecordDict:
    """One row of a trained chunk as the content of a reply."""
    metrics: dict[str, Any] = {
        "num-examples": int(trained.num_examples[row]),
        "train-loss": float(trained.losses[row]),
    }
    return RecordDict({UPDATE: pack_row(trained.diff, row), METRICS: MetricRecord(metrics)})


def idle_reply(message: Message) -> Message:
    """The reply of a client without examples: no update, nothing changed."""
    metrics = MetricRecord({"num-examples": 0})
    return Message(RecordDict({METRICS: metrics}), reply_to=message)


def score_reply(message: Message, num_examples: int, loss: float) -> Message:
    """The reply of a client that was asked only for its loss."""
    metrics: dict[str, Any] = {"num-examples": num_examples}
    if num_examples:
        metrics["loss"] = loss
    return Message(RecordDict({METRICS: MetricRecord(metrics)}), reply_to=message)


def read_scores(replies: Mapping[int, Message]) -> Replies:
    """Flower replies to evaluate messages (client -> message) as our record."""
    scores, empty, failures = {}, [], {}
    for client, reply in replies.items():
        metrics = None if reply.has_error() else found(reply.content, METRICS, MetricRecord)
        loss = None if metrics is None else metrics.get("loss")
        if metrics is not None and metrics.get("num-examples") == 0:
            empty.append(client)
        elif isinstance(loss, int | float):
            scores[client] = float(loss)
        else:
            reason = reply.error.reason if reply.has_error() else None
            failures[client] = reason or "the reply has no loss"
    return Replies(
        clients=list(scores), losses=list(scores.values()), empty=empty, failures=failures
    )


def read_replies(
    replies: Mapping[int, Message],
    expected: Mapping[str, torch.Tensor],
    like: Tree,
    device: torch.device,
) -> Replies:
    """Flower replies (client -> message) as our record; what cannot be used is named."""
    trained = _rows_of_chunk(replies, like)
    if trained is not None:
        return Replies(
            clients=list(replies),
            update=Update(
                {name: part.to(device) for name, part in trained.diff.items()},
                trained.num_examples.to(device),
            ),
            losses=trained.losses.tolist(),
        )
    usable: dict[int, _Usable] = {}
    failures: dict[int, str] = {}
    empty: list[int] = []
    for client, reply in replies.items():
        read = _read_reply(reply, expected)
        if isinstance(read, str):
            failures[client] = read
        elif read is None:
            empty.append(client)
        else:
            usable[client] = read
    if not usable:
        return Replies(empty=empty, failures=failures)
    records, sizes, losses = zip(*usable.values(), strict=True)
    return Replies(
        clients=list(usable),
        update=Update(stack_records(records, like, device), torch.tensor(sizes, device=device)),
        losses=list(losses),
        empty=empty,
        failures=failures,
    )


class _Usable(NamedTuple):
    """A reply that can be used."""

    update: ArrayRecord
    num_examples: float
    loss: float


def _read_reply(reply: Message, expected: Mapping[str, torch.Tensor]) -> _Usable | str | None:
    """One reply; None of a client without examples, or why it cannot be used."""
    if reply.has_error():
        return reply.error.reason or f"error {reply.error.code}"
    metrics = found(reply.content, METRICS, MetricRecord)
    update = found(reply.content, UPDATE, ArrayRecord)
    size = None if metrics is None else metrics.get("num-examples")
    loss = None if metrics is None else metrics.get("train-loss", math.nan)
    if not isinstance(size, int | float) or not isinstance(loss, int | float):
        return "the reply has no metrics"
    if size == 0:
        return None
    if not size > 0:
        return f"the reply claims {size} examples"
    if update is None:
        return "the reply has no update"
    return misfit(update, expected) or _Usable(update, float(size), float(loss))


def _rows_of_chunk(replies: Mapping[int, Message], like: Tree) -> Trained | None:
    """The rows of one chunk that these replies are, in their order; None if they are not."""
    parts: list[Any] = [
        r.untouched() if isinstance(r, RowReply) else None for r in replies.values()
    ]
    if not parts or None in parts:
        return None
    chunk: Trained = parts[0][0]
    rows = [row for _, row in parts]
    same = all(other is chunk for other, _ in parts)
    owned = same and [chunk.clients[row] for row in rows] == list(replies)
    fits = chunk.diff.keys() == like.keys() and all(
        part.shape[1:] == like[name].shape and part.dtype == like[name].dtype
        for name, part in chunk.diff.items()
    )
    if not (owned and fits):
        return None
    if rows == list(range(len(chunk.clients))):
        return chunk
    order = torch.tensor(rows, device=chunk.losses.device)
    return replace(
        chunk,
        clients=list(replies),
        diff=trees.select_rows(chunk.diff, order),
        num_examples=chunk.num_examples[order],
        losses=chunk.losses[order],
    )
