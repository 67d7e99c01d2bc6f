"""Step rules beside torch's own optimisers."""

import pytest
import torch

from fedsim.core.errors import InputError
from strategies.shared.reach import counted
from strategies.step_rules import adagrad, adam, clipped, sgd

CURVES = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64)


def slope(point):
    return {"x": CURVES * (point["x"] - 1), "y": point["y"] ** 3}


def start():
    x = torch.tensor([3.0, -1.0, 0.2], dtype=torch.float64)
    return {"x": x, "y": torch.tensor([0.7], dtype=torch.float64)}


def walk(rule, steps=7):
    point = start()
    state = rule.init(point, torch.tensor(1.0, dtype=torch.float64))
    for _ in range(steps):
        point, state = rule.step(state, point, slope)
    return point


def walk_of_torch(make, steps=7, largest=None):
    point = {name: value.requires_grad_() for name, value in start().items()}
    optimiser = make(point.values())
    for _ in range(steps):
        for name, gradient in slope({k: v.detach() for k, v in point.items()}).items():
            point[name].grad = gradient
        if largest is not None:
            torch.nn.utils.clip_grad_norm_(point.values(), largest)
        optimiser.step()
    return {name: value.detach() for name, value in point.items()}


def test_adam_is_torchs():
    torch.testing.assert_close(walk(adam(0.1)), walk_of_torch(lambda p: torch.optim.Adam(p, 0.1)))


def test_adam_with_weight_decay_is_torchs_adamw():
    ours = walk(adam(0.1, beta_1=0.8, beta_2=0.95, weight_decay=0.3))
    other = walk_of_torch(lambda p: torch.optim.AdamW(p, 0.1, betas=(0.8, 0.95), weight_decay=0.3))
    torch.testing.assert_close(ours, other)


def test_clipped_steps_are_those_of_torchs_clip_grad_norm():
    other = walk_of_torch(lambda p: torch.optim.SGD(p, 0.1), largest=1.5)
    torch.testing.assert_close(walk(clipped(sgd(0.1), 1.5)), other, rtol=1e-6, atol=1e-6)


def test_a_gradient_shorter_than_the_largest_is_not_changed():
    torch.testing.assert_close(walk(clipped(sgd(0.1), 1e6)), walk(sgd(0.1)))


def test_a_gradient_of_zero_is_not_divided_by():
    rule = clipped(sgd(0.1), 1.0)
    zero = {"x": torch.zeros(2)}
    point, _ = rule.step(rule.init(zero, torch.tensor(1.0)), zero, lambda x: zero)
    assert torch.equal(point["x"], zero["x"])


@pytest.mark.parametrize("rule", [adam(0.1), adagrad(0.1)], ids=lambda rule: rule.name)
def test_rules_that_do_not_follow_the_length_of_a_gradient_have_no_reach(rule):
    with pytest.raises(InputError, match="counted: steps must be a rule whose moves are linear"):
        counted(rule)


def test_adagrad_is_torchs():
    other = walk_of_torch(lambda p: torch.optim.Adagrad(p, 0.3))
    torch.testing.assert_close(walk(adagrad(0.3)), other)


@pytest.mark.parametrize(
    "values", [{"lr": 0.0}, {"beta_1": 1.0}, {"eps": 0.0}, {"weight_decay": -1}]
)
def test_adam_refuses_values_out_of_range(values):
    with pytest.raises(InputError, match="adam: "):
        adam(**({"lr": 0.1} | values))


def test_clipped_refuses_a_norm_of_zero():
    with pytest.raises(InputError, match="clipped: largest must be > 0"):
        clipped(sgd(0.1), 0.0)
