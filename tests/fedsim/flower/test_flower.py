"""Our Grid is a Flower Grid, our strategies Flower strategies, our messages Flower messages."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.core import trees
from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.flower.client import client_app
from fedsim.flower.cohort import cohort_answer
from fedsim.flower.exchange import grid_exchange
from fedsim.flower.grid import CohortGrid, server_context
from fedsim.flower.strategy import FlowerStrategy
from fedsim.flower.wire import TensorArray, over_the_wire, pack, pack_row, stack_records, unpack
from fedsim.server.round import begin, finish_round, plan_round
from fedsim.server.setup import prepare
from fedsim.server.transport import Work
from fedsim.testing import direct
from fedsim.training.client_state import ClientStates
from tests.helpers.worlds import small_world

THIRD_PARTY = Path(__file__).parents[2] / "helpers" / "third_party_app"

pytestmark = pytest.mark.usefixtures("flower_identity")


def prepared(width=2, **changes):
    return prepare(small_world(**changes), Settings(width=width))


def one_round(world, exchange):
    held = begin(world)
    work = plan_round(world, held, 1, {}, exchange)
    return finish_round(world, held, work, exchange(work))


# --- records -------------------------------------------------------------------------------------


def test_a_tensor_array_is_what_flowers_own_array_would_be():
    tensor = torch.arange(6.0).reshape(2, 3)
    ours, theirs = TensorArray(tensor), Array(tensor.numpy())
    assert (ours.dtype, ours.shape, ours.stype) == (theirs.dtype, theirs.shape, theirs.stype)
    assert ours.data == theirs.data
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert TensorArray(tensor, row=1).shape == (3,)
    assert ours.object_id == theirs.object_id


def test_a_record_of_tensors_is_neither_copied_nor_serialised():
    tree = {"w": torch.zeros(3, 2), "b": torch.zeros(3)}
    record = pack_row(tree, 1)
    assert all("_data" not in array.__dict__ for array in record.values())
    assert record["['w']"].tensor.data_ptr() == tree["w"][1].data_ptr()


def test_rows_of_one_stack_in_order_are_that_stack():
    stack = {"w": torch.arange(6.0).reshape(3, 2)}
    like = {"w": torch.zeros(2)}
    records = [pack_row(stack, row) for row in range(3)]
    assert stack_records(records, like, torch.device("cpu"))["w"] is stack["w"]
    for order in ([2, 0, 1], [0, 1]):
        picked = stack_records([records[row] for row in order], like, torch.device("cpu"))
        torch.testing.assert_close(picked["w"], stack["w"][order])


def test_a_state_comes_back_from_the_wire_as_it_was():
    world = prepared()
    template = world.broadcast_template
    app = ClientApp()
    seen = []

    @app.train()
    def train(message, context):
        seen.append(unpack(message.content["broadcast"], template, torch.device("cpu")))
        return Message(RecordDict(), reply_to=message)

    grid = CohortGrid(over_the_wire(app), num_nodes=1)
    grid.send_and_receive([Message(RecordDict({"broadcast": pack(template)}), 1, "train")])
    assert type(seen[0]) is type(template)
    for first, second in zip(trees.leaves(seen[0]), trees.leaves(template), strict=True):
        assert torch.equal(first, second)


# --- the grid ------------------------------------------------------------------------------------


def third_party(grid, tmp_path):
    """Run the third-party ServerApp on a grid; gives what it wrote."""
    from quadratic import app

    app.server(grid, server_context({"rounds": 3, "result": str(tmp_path / "found.json")}))
    return json.loads((tmp_path / "found.json").read_text())


@pytest.fixture
def quadratic(monkeypatch):
    monkeypatch.syspath_prepend(str(THIRD_PARTY))
    sys.modules.pop("quadratic.app", None)
    from quadratic import app

    return app


def test_an_unmodified_flower_app_runs_on_our_grid(quadratic, tmp_path):
    found = third_party(CohortGrid(quadratic.client, num_nodes=4), tmp_path)
    # x moves half way to the weighted mean (0*1 + 1*2 + 2*3 + 3*4) / 10 = 2 in each of 3 rounds
    np.testing.assert_allclose(found["x"], [2 * (1 - 0.5**3)] * 3)
    # every client took part in every round, and its state was kept
    assert [round_["rounds"] for round_ in found["metrics"]] == pytest.approx([1, 2, 3])


def test_nodes_are_numbered_from_one_and_know_their_partition():
    app = ClientApp()

    @app.query()
    def query(message, context):
        assert context.node_config == {"partition-id": context.node_id - 1, "num-partitions": 3}
        return Message(RecordDict(), reply_to=message)

    grid = CohortGrid(app, num_nodes=3)
    assert list(grid.get_node_ids()) == [1, 2, 3]
    asked = [Message(RecordDict(), node, "query") for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(asked))
    assert sorted(reply.metadata.src_node_id for reply in replies) == [1, 2, 3]
    assert not any(reply.has_error() for reply in replies)


def test_what_a_client_app_raises_becomes_an_error_reply():
    app = ClientApp()

    @app.train()
    def train(message, context):
        raise RuntimeError("the disk is on fire")

    (reply,) = CohortGrid(app, num_nodes=1).send_and_receive([Message(RecordDict(), 1, "train")])
    assert reply.has_error()
    assert "the disk is on fire" in reply.error.reason


def test_clients_train_only_when_their_replies_are_pulled():
    world = prepared(width=2)
    states = ClientStates(world.client_template)
    inner, made = cohort_answer(world, states), []

    def counted(messages):
        for portion in inner(messages):
            made.append(len(portion))
            yield portion

    grid = CohortGrid(client_app(lambda _: world), num_nodes=6, cohort=counted)
    held = begin(world)
    work = Work(
        round_num=1,
        broadcast=world.scenario.strategy.broadcast(held.strategy, 1),
        clients=[0, 1, 2, 3, 4],
        accepted={},
    )
    replies = grid_exchange(grid, world)(work)
    assert made == []
    next(replies)
    assert made == [2]
    list(replies)
    assert made == [2, 2, 1]


def test_a_node_that_hosts_many_clients_gets_one_message_at_a_time():
    world = prepared()
    grid = CohortGrid(client_app(lambda _: world), num_nodes=2)
    pushed = []
    push = grid.push_messages

    def watched(messages):
        messages = list(messages)
        pushed.append([message.metadata.dst_node_id for message in messages])
        return push(messages)

    grid.push_messages = watched
    held = begin(world)
    work = Work(
        round_num=1,
        broadcast=world.scenario.strategy.broadcast(held.strategy, 1),
        clients=[0, 2, 4, 5],
        accepted={},
    )
    list(grid_exchange(grid, world)(work))
    assert pushed == [[1, 2], [1], [1]]  # clients 0 and 5, then 2, then 4


# --- replies that cannot be used -----------------------------------------------------------------


def tampering(world, client, change):
    """The ClientApp, whose reply for one client goes through `change`."""
    inner = client_app(lambda _: world)
    app = ClientApp()

    @app.train()
    def train(message, context):
        reply = inner(message, context)
        return change(reply) if context.node_config["partition-id"] == client else reply

    return app


def wrong_shape(reply):
    record = reply.content["update"]
    name = next(iter(record))
    record[name] = Array(np.zeros((2, 2), dtype=np.float32))
    return reply


def extra_array(reply):
    reply.content["update"]["more"] = Array(np.zeros(1))
    return reply


def no_update(reply):
    del reply.content["update"]
    return reply


def no_metrics(reply):
    del reply.content["metrics"]
    return reply


def negative_size(reply):
    reply.content["metrics"]["num-examples"] = -5
    return reply


def infinite(reply):
    record = reply.content["update"]
    name = next(iter(record))
    record[name] = Array(np.full(record[name].shape, np.inf, dtype=np.float32))
    return reply


def fall_over(reply):
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrong_shape, r"has shape \(2, 2\), not"),
        (extra_array, "other arrays than expected"),
        (no_update, "the reply has no update"),
        (no_metrics, "the reply has no metrics"),
        (negative_size, "the reply claims -5 examples"),
        (infinite, "the update is not finite"),
        (fall_over, "out of memory"),
    ],
)
def test_a_client_whose_reply_cannot_be_used_is_left_out_and_named(change, reason):
    sizes = (4, 4, 4, 4)
    world = prepared(width=1, sizes=sizes, cohort=4)
    grid = CohortGrid(tampering(world, 2, change), num_nodes=4)
    outcome = one_round(world, grid_exchange(grid, world))
    assert list(outcome.rejected) == [2]
    assert re.search(reason, outcome.rejected[2])
    assert sorted(outcome.accepted) == [0, 1, 3]
    # the model is that of a round without the client
    held = begin(world)
    work = Work(
        round_num=1,
        broadcast=world.scenario.strategy.broadcast(held.strategy, 1),
        clients=[0, 1, 3],
        accepted={},
    )
    expected = finish_round(world, held, work, direct(world)(work))
    for name, value in world.scenario.strategy.params(expected.state.strategy).items():
        torch.testing.assert_close(
            value, world.scenario.strategy.params(outcome.state.strategy)[name]
        )


# --- our strategy in other people's ServerApps ---------------------------------------------------


def test_under_flowers_own_loop_the_model_is_that_of_our_loop():
    world = prepared(width=1)
    strategy = FlowerStrategy(world)
    grid = CohortGrid(client_app(lambda _: world), num_nodes=world.scenario.population)
    result = strategy.start(
        grid, strategy.initial_arrays(), num_rounds=3, evaluate_fn=strategy.evaluate
    )
    held, exchange = begin(world), direct(world)
    for round_num in range(1, 4):
        work = plan_round(world, held, round_num, {}, exchange)
        held = finish_round(world, held, work, exchange(work)).state
    ours = world.scenario.strategy.params(held.strategy)
    for name, array in zip(ours, result.arrays.values(), strict=True):
        np.testing.assert_allclose(array.numpy(), ours[name].numpy(), rtol=1e-5, atol=1e-6)
    assert result.evaluate_metrics_serverapp[3]["test-accuracy"] > 0.5


def test_the_flower_strategy_refuses_fewer_nodes_than_it_asks_clients():
    world = prepared()
    grid = CohortGrid(client_app(lambda _: world), num_nodes=1)
    strategy = FlowerStrategy(world)
    with pytest.raises(InputError, match="nodes must be one for each client, 6; got 1"):
        strategy.start(grid, strategy.initial_arrays(), num_rounds=1)


def test_the_flower_app_reads_its_run_config_like_the_command_line(tmp_path):
    from fedsim.cli import flower_app

    config = {
        "scenario": "digits_quickstart",
        "knobs": "--rounds 1 --population 8 --cohort 3 --seed 5",
        "out": str(tmp_path / "run"),
    }
    grid = CohortGrid(flower_app.client_app, num_nodes=2, run_config=config)
    flower_app.server_app(grid, server_context(config))
    description = json.loads((tmp_path / "run/run.json").read_text())
    assert description["settings"]["seed"] == 5
    assert description["settings"]["runtime"] == "flower"
    assert description["population"] == 8
