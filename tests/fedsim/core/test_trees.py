"""Trees as vectors, choices between states, and uniform draws."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.func import vmap

from fedsim.core import trees
from fedsim.core.rng import Purpose, client_keys, uniforms
from strategies.fedavg import Local


def tree():
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(2, dtype=torch.float64)}


def test_unflatten_is_the_inverse_of_flatten():
    flat = trees.flatten(tree())
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    back = trees.unflatten(flat, tree())
    for name, value in tree().items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)


def test_flatten_rows_flattens_each_tree_of_a_stack_and_unflatten_rows_is_its_inverse():
    stack = trees.map_leaves(tree(), lambda value: torch.stack([value, 2 * value, -value]))
    rows = trees.flatten_rows(stack, tree())
    torch.testing.assert_close(rows[1], trees.flatten(trees.scale(tree(), 2)))
    assert trees.flatten_rows(stack, ["b"]).tolist() == [[0, 1], [0, 2], [0, -1]]
    back = trees.unflatten_rows(rows, tree())
    for name, value in stack.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)


def test_where_takes_the_first_state_if_the_condition_holds():
    first, second = Local(tree(), torch.ones(1)), Local(trees.scale(tree(), -1), torch.zeros(1))
    assert torch.equal(trees.where(torch.tensor(True), first, second).rule, first.rule)
    stacked = vmap(lambda which: trees.where(which, first, second))(torch.tensor([True, False]))
    assert torch.equal(stacked.params["a"][0], first.params["a"])
    assert torch.equal(stacked.params["a"][1], second.params["a"])


@pytest.mark.parametrize("count", [1, 7, 20_001])
def test_uniforms_are_uniform_on_zero_to_one(count):
    keys = client_keys(3, Purpose.STEP, 1, torch.arange(max(1, 20_000 // count)))
    draws = uniforms(keys, count)
    assert draws.shape == (len(keys), count)
    assert draws.dtype == torch.float32
    assert float(draws.min()) >= 0
    assert float(draws.max()) < 1
    assert stats.kstest(draws.flatten().double().numpy(), "uniform").pvalue > 1e-3


def test_a_clients_uniforms_do_not_depend_on_the_other_clients():
    keys = torch.tensor([11, 22, 33])
    together = uniforms(keys, 9)
    assert torch.equal(together[1], uniforms(keys[1], 9))
    assert torch.equal(together, vmap(lambda key: uniforms(key, 9))(keys))
    assert abs(np.corrcoef(uniforms(keys[:2], 5000).numpy())[0, 1]) < 0.06
