"""CohortGrid: a Flower Grid in this process, whose nodes are numbered 1 to N.

ServerApp, ClientApp and Messages are Flower's own; only the transport is ours. Work of our own
ServerApp (train and evaluate messages) is answered a chunk of clients at a time by a
`CohortAnswer`; every other message goes to the ClientApp, one by one, as Flower's engine would.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

CohortAnswer = Callable[[list[Message]], Iterator[list[Message]]]
"""Replies to messages for many clients, in portions; made as they are asked for."""

_RUN_ID = 1
_SERVER = 1 << 32  # no node has this number
_RAISED = 2  # Flower's code for "the ClientApp raised an exception"


class CohortGrid(Grid):
    """An in-process grid of `num_nodes` nodes; node i + 1 hosts partition i.

    Args:
        client_app: what runs on every node.
        num_nodes: how many nodes there are.
        run_config: handed to the ClientApp in its context.
        cohort: answers train and evaluate messages together; without it the ClientApp does.

    Guarantees:
        Replies are made when they are pulled: what was pulled and dropped takes no memory.
        An unmodified ClientApp gives what it gives on Flower's engine.
    """

    def __init__(
        self,
        client_app: ClientApp,
        *,
        num_nodes: int,
        run_config: UserConfig | None = None,
        cohort: CohortAnswer | None = None,
    ) -> None:
        self._client_app = client_app
        self._num_nodes = num_nodes
        self._run_config: UserConfig = dict(run_config or {})
        self._cohort = cohort
        self._contexts: dict[int, Context] = {}
        self._numbers = itertools.count(1)
        self._work: list[Iterator[list[Message]]] = []
        self._ready: dict[str, Message] = {}
        self._run = Run.create_empty(_RUN_ID)

    def set_run(self, run: Run) -> None:
        """Set the run this grid operates in."""
        self._run = run

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message of this run (Flower prefers the constructor of `Message`)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The node numbers, 1 to N, in order: the same in every run."""
        return range(1, self._num_nodes + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages in; they are worked on when their replies are pulled."""
        together: list[Message] = []
        ids = []
        for message in messages:
            metadata = message.metadata
            metadata.__dict__["_message_id"] = number = str(next(self._numbers))
            ids.append(number)
            if self._cohort is not None and metadata.message_type in ("train", "evaluate"):
                together.append(message)
            else:
                self._work.append(self._one(message))
        if together and self._cohort is not None:
            self._work.append(self._cohort(together))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are ready to these messages; works until at least one of them is."""
        wanted = list(message_ids)
        found = [self._ready.pop(number) for number in wanted if number in self._ready]
        while not found and self._work:
            portion = next(self._work[0], None)
            if portion is None:
                self._work.pop(0)
                continue
            self._ready |= {reply.metadata.reply_to_message_id: reply for reply in portion}
            found = [self._ready.pop(number) for number in wanted if number in self._ready]
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and pull all their replies; nothing is lost here, so no timeout is used."""
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while waiting:
            portion = list(self.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in portion}
            replies += portion
        return replies

    def _one(self, message: Message) -> Iterator[list[Message]]:
        """The ClientApp's reply to one message; what it raises becomes an error reply."""
        node = message.metadata.dst_node_id
        if node not in self._contexts:
            self._contexts[node] = Context(
                run_id=_RUN_ID,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": self._num_nodes},
                state=RecordDict(),
                run_config=dict(self._run_config),
            )
        try:
            yield [self._client_app(message, self._contexts[node])]
        except Exception as error:  # as Flower's engine does: one client's fault is its own
            reason = "".join(traceback.format_exception_only(error)).strip()
            yield [Message(Error(code=_RAISED, reason=reason), reply_to=message)]


def server_context(run_config: UserConfig) -> Context:
    """The context of a ServerApp that runs in this process."""
    return Context(
        run_id=_RUN_ID,
        node_id=_SERVER,
        node_config={},
        state=RecordDict(),
        run_config=dict(run_config),
    )


@contextmanager
def in_process() -> Iterator[None]:
    """Give this process the identity without which Flower refuses to build a Message."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN_ID, _SERVER
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
