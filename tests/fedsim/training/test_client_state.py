"""What clients remember: committed only when the server says so."""

from typing import NamedTuple

import torch

from fedsim.training.client_state import ClientStates


class Memory(NamedTuple):
    value: torch.Tensor


def fresh():
    return ClientStates(Memory(torch.zeros(2)))


def stack(*values):
    return Memory(torch.tensor([[float(v), float(v)] for v in values]))


def read(states, clients, accepted):
    return states.fetch(clients, accepted).value[:, 0].tolist()


def test_a_new_state_is_committed_when_its_round_was_accepted():
    states = fresh()
    states.hold([4, 7], 1, stack(10, 20))
    assert read(states, [7, 4], {4: 1, 7: 1}) == [20, 10]


def test_a_new_state_is_dropped_when_its_reply_was_lost():
    states = fresh()
    states.hold([4], 1, stack(10))
    assert read(states, [4], {}) == [0]
    assert read(states, [4], {4: 1}) == [0]  # gone for good, not only hidden


def test_a_later_lost_reply_leaves_the_last_accepted_state():
    states = fresh()
    states.hold([4], 1, stack(10))
    states.fetch([4], {4: 1})
    states.hold([4], 2, stack(99))
    assert read(states, [4], {4: 1}) == [10]


def test_pending_states_survive_export_and_restore():
    states = fresh()
    states.hold([1, 2], 1, stack(5, 6))
    states.fetch([1], {1: 1})
    states.hold([1], 2, stack(7))
    again = fresh()
    again.restore(states.export())
    assert read(again, [1, 2], {1: 2, 2: 1}) == [7, 6]


def test_held_states_are_copies():
    states, given = fresh(), stack(3)
    states.hold([0], 1, given)
    given.value.fill_(8)
    assert read(states, [0], {0: 1}) == [3]


def test_a_strategy_without_state_keeps_nothing():
    class Nothing(NamedTuple):
        pass

    states = ClientStates(Nothing())
    states.hold([1], 1, Nothing())
    assert states.fetch([1], {1: 1}) == Nothing()
    assert states.export() == {"committed": {}, "pending": {}}
