"""States and updates as Flower records: no copy within a process, valid on the wire.

Flower's own `ArrayRecord(dict)` serialises every tensor when it is built. A `TensorArray` keeps the
tensor and serialises only when `.data` is read, which does not happen in this process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.app.metadata import Metadata
from flwr.clientapp import ClientApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from torch import Tensor
from torch.utils import _pytree as pytree

from fedsim.core import trees
from fedsim.core.trees import Tree

T = TypeVar("T")
R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)
_STYPE = "numpy.ndarray"


class TensorArray(Array):
    """One row of a stack of tensors, or a whole tensor, as a Flower array.

    stack: the tensor; row: which row of it, or None for all of it.
    """

    stack: Tensor
    row: int | None

    def __init__(self, stack: Tensor, row: int | None = None) -> None:
        # The parent's constructor would serialise; its fields are set here as it would set them.
        fields = {
            "stack": stack,
            "row": row,
            "dtype": str(stack.dtype).removeprefix("torch."),
            "shape": tuple(stack.shape if row is None else stack.shape[1:]),
            "stype": _STYPE,
        }
        self.__dict__.update(fields)

    @property
    def tensor(self) -> Tensor:
        """The tensor itself: a view, not a copy."""
        return self.stack if self.row is None else self.stack[self.row]

    @property
    def data(self) -> bytes:  # type: ignore[override]  # a field there, made on demand here
        """The serialised array, made when first read."""
        if "_data" not in self.__dict__:
            self.__dict__["_data"] = Array(self.tensor.detach().cpu().numpy()).data
        serialised: bytes = self.__dict__["_data"]
        return serialised


# Flower writes an object's type on the wire by this name, and inflates it by the same name.
TensorArray.__qualname__ = Array.__qualname__


def altered(metadata: Metadata, changes: Mapping[str, object]) -> Metadata:
    """A copy of a message's metadata with some fields changed, by their names in its `__dict__`."""
    copy = Metadata.__new__(Metadata)
    copy.__dict__.update(metadata.__dict__, **changes)
    return copy


def addressed(message: Message, node: int, content: RecordDict) -> Message:
    """The same message to another node and with other content.

    Flower's constructor checks its arguments at ten times the cost of what it does with them.
    """
    copy = Message.__new__(Message)
    metadata = altered(message.metadata, {"_dst_node_id": node})
    copy.__dict__.update(message.__dict__, _metadata=metadata, _content=content)
    return copy


def found(content: RecordDict, name: str, kind: type[R]) -> R | None:
    """The record of that name, if there is one of that kind.

    Flower's `content.array_records` and its like copy all of the content at every call.
    """
    record = content.get(name)
    return record if isinstance(record, kind) else None


def need(content: RecordDict, name: str, kind: type[R]) -> R:
    """The record of that name.

    Raises:
        KeyError: there is none of that kind.
    """
    record = found(content, name, kind)
    if record is None:
        raise KeyError(f"the message must have a {kind.__name__} {name!r}; got {list(content)}.")
    return record


def names(state: object) -> list[str]:
    """A name for each tensor of a state, in the order of `trees.leaves`."""
    flat, _ = pytree.tree_flatten_with_path(state)
    return [pytree.keystr(path) for path, leaf in flat if isinstance(leaf, Tensor)]


def named_leaves(state: object) -> dict[str, Tensor]:
    """The tensors of a state by name."""
    return dict(zip(names(state), trees.leaves(state), strict=True))


def pack(state: object) -> ArrayRecord:
    """A state as a record; nothing is copied."""
    record = ArrayRecord()
    for name, leaf in named_leaves(state).items():
        record[name] = TensorArray(leaf)
    return record


def pack_row(stack: object, row: int) -> ArrayRecord:
    """One row of a stack as a record; nothing is copied."""
    record = ArrayRecord()
    for name, column in named_leaves(stack).items():
        record[name] = TensorArray(column, row)
    return record


def unpack(record: ArrayRecord, like: T, device: torch.device) -> T:
    """The state in a record, in the structure of `like`.

    Raises:
        ValueError: the record lacks a tensor, has one too many, or one has the wrong shape.
    """
    template = named_leaves(like)
    fault = misfit(record, template)
    if fault:
        raise ValueError(fault)
    tensors = [tensor_of(record[name], leaf, device) for name, leaf in template.items()]
    return trees.rebuild(like, tensors)


def misfit(record: ArrayRecord, template: Mapping[str, Tensor]) -> str | None:
    """Why a record does not have the template's names and shapes, or None."""
    if record.keys() != template.keys():
        odd = sorted(set(record.keys()) ^ set(template.keys()))
        return f"the update has other arrays than expected ({odd[0]})"
    for name, leaf in template.items():
        if tuple(record[name].shape) != tuple(leaf.shape):
            return f"{name} has shape {tuple(record[name].shape)}, not {tuple(leaf.shape)}"
    return None


def tensor_of(array: Array, like: Tensor, device: torch.device) -> Tensor:
    """An array as a tensor of the type of `like`."""
    if isinstance(array, TensorArray):
        return array.tensor.to(device=device, dtype=like.dtype)
    value = np.asarray(array.numpy())
    return torch.from_numpy(value.copy() if not value.flags.writeable else value).to(
        device=device, dtype=like.dtype
    )


def stack_records(records: Sequence[ArrayRecord], like: Tree, device: torch.device) -> Tree:
    """One update a record as a stack [k, ...]. The rows of one stack in order are that stack."""
    stacked: Tree = {}
    for label, (name, leaf) in zip(names(like), like.items(), strict=True):
        arrays = [record[label] for record in records]
        shared = _shared_stack(arrays)
        if shared is None:
            shared = torch.stack([tensor_of(array, leaf, device) for array in arrays])
        stacked[name] = shared.to(device)
    return stacked


def _shared_stack(arrays: Sequence[Array]) -> Tensor | None:
    """The stack whose rows, all of them and in order, these arrays are; None if there is none."""
    rows = [(array.stack, array.row) for array in arrays if isinstance(array, TensorArray)]
    if len(rows) < len(arrays):
        return None
    stack = rows[0][0]
    if all(other is stack and row == place for place, (other, row) in enumerate(rows)):
        return stack if len(stack) == len(rows) else None
    return None


def over_the_wire(app: ClientApp) -> ClientApp:
    """A ClientApp that gets its messages, and gives its replies, as bytes made them.

    It is what lies between a SuperLink and a SuperNode, without the network: for tests.
    """
    remote = ClientApp()

    def carry(content: RecordDict) -> RecordDict:
        sent = {key: item.deflate() for key, item in get_all_nested_objects(content).items()}
        received = inflate_object_from_contents(content.object_id, sent)
        if not isinstance(received, RecordDict):
            raise TypeError(f"over_the_wire: got {type(received).__name__} for a RecordDict.")
        return received

    def answer(message: Message, context: Context) -> Message:
        message.content = carry(message.content)
        reply = app(message, context)
        reply.content = carry(reply.content)
        context.state = carry(context.state)
        return reply

    remote.train()(answer)
    remote.evaluate()(answer)
    remote.query()(answer)
    return remote
