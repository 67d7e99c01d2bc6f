"""The effect of attacks on the mean and on robust aggregators."""

import pytest
import torch

from fedsim.training.evaluation import evaluate
from fedsim.world.attacks import inner_product, label_flip, little_is_enough, sign_flip
from strategies import fedavg, monna
from strategies.aggregators import (
    coordinate_median,
    krum,
    mean,
    multi_krum,
    nearest_neighbours,
    trimmed_mean,
)
from strategies.step_rules import sgd
from tests.helpers.worlds import points_world, run_by_hand, small_world

TWELVE = {"sizes": (20,) * 12, "cohort": 12}
BAD, GOOD = [1, 4, 9], [0, 2, 3, 5, 6, 7, 8, 10, 11]

ROBUST = [
    coordinate_median(),
    trimmed_mean(byzantine=3),
    krum(byzantine=3),
    multi_krum(byzantine=3),
    nearest_neighbours(byzantine=3),
]
HARMFUL = [
    label_flip(3),
    sign_flip(3),
    sign_flip(3, 4.0),
    inner_product(3),
    inner_product(3, 10.0),
]


def loss(aggregator, attack):
    """The test loss after 8 rounds of twelve clients alike, a quarter of them attackers."""
    world = small_world(**(TWELVE | {"aggregator": aggregator, "attack": attack}))
    ended = run_by_hand(world, rounds=8)
    return evaluate(world.task, ended.models[-1], ended.prepared.dealt).loss


@pytest.fixture(scope="module")
def without_attack():
    return {rule.name: loss(rule, None) for rule in [mean("uniform"), *ROBUST]}


@pytest.mark.parametrize("attack", HARMFUL, ids=lambda attack: attack.name)
def test_among_similar_clients_an_attack_hurts_the_mean_and_no_robust_rule(attack, without_attack):
    """Of their losses without attack the mean gets 1.57 times or more, the rules at most 1.38.

    Over seeds 1 to 5 it is 1.53 or more; at most 1.71 for the median and the trimmed mean, at most
    1.25 for the others.
    """
    assert loss(mean("uniform"), attack) > 1.5 * without_attack["mean(uniform)"]
    for rule in ROBUST:
        assert loss(rule, attack) < 1.45 * without_attack[rule.name], rule.name


def test_little_is_enough_does_not_hurt_any_rule_on_an_easy_problem(without_attack):
    for rule in [mean("uniform"), *ROBUST]:
        assert loss(rule, little_is_enough(3, 1.5)) < 1.1 * without_attack[rule.name]


# Twelve clients, each with one point: the loss is least at the mean of the points.
UNLIKE = torch.randn(12, 1, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def distance_from_optimum(rule, attack, strategy=None, points=UNLIKE, rounds=60, last=1):
    """How far from the honest optimum a run ends, in standard deviations of the points."""
    strategy = strategy or fedavg(steps=sgd(0.25))
    world = points_world(points, strategy=strategy, aggregator=rule, attack=attack)
    models = run_by_hand(world, rounds=rounds).models[-last:]
    honest = points[GOOD].flatten(0, 1)
    away = torch.stack([model["x"] for model in models]).mean(dim=0) - honest.mean(dim=0)
    return float(away.norm() / honest.std(dim=0, correction=0).norm())


def test_among_unlike_clients_little_is_enough_moves_the_mean_by_its_share_and_the_rules_further():
    """As in its paper: the mean is off by a z / n = 0.375 deviations, the rules by 0.47 to 0.66."""
    attack = little_is_enough(BAD, 1.5)
    share = distance_from_optimum(mean("uniform"), attack)
    assert share == pytest.approx(3 * 1.5 / 12, rel=1e-6)
    for rule in ROBUST:
        assert distance_from_optimum(rule, attack) > 1.25 * share, rule.name


def test_among_unlike_clients_krum_ends_at_the_optimum_of_one_client_without_any_attack():
    world = points_world(UNLIKE, strategy=fedavg(steps=sgd(0.25)), aggregator=krum(byzantine=3))
    end = run_by_hand(world, rounds=60).models[-1]["x"]
    assert (UNLIKE[:, 0] - end).norm(dim=1).min() < 1e-6


# Twelve clients with the same forty points, of which each draws one a step: they differ by noise.
ALIKE = torch.randn(1, 40, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ALIKE = ALIKE.expand(12, 40, 20).contiguous()


def test_local_momentum_reduces_little_is_enough_as_much_as_the_gradient_noise():
    """The spread of momenta is sqrt((1 - beta) / (1 + beta)) of the gradients'."""
    rule, attack, beta = nearest_neighbours(byzantine=3), little_is_enough(BAD, 1.5), 0.9
    without, with_momentum = (
        distance_from_optimum(rule, attack, strategy, ALIKE, rounds=250, last=200)
        for strategy in (fedavg(steps=sgd(0.1)), monna(steps=sgd(0.1), beta=beta))
    )
    assert without > 0.4
    expected = without * ((1 - beta) / (1 + beta)) ** 0.5
    assert with_momentum == pytest.approx(expected, rel=0.2)


def test_under_noise_a_small_inner_product_misleads_krum_and_momentum_prevents_it():
    """Krum selects the attacker among the honest: 0.7 off instead of 0.2; with momentum 0.2."""
    rule, attack = krum(byzantine=3), inner_product(BAD, 0.1)
    momentum = monna(steps=sgd(0.1), beta=0.9)
    at = {"points": ALIKE, "rounds": 200, "last": 150}
    assert distance_from_optimum(rule, None, fedavg(steps=sgd(0.1)), **at) < 0.3
    assert distance_from_optimum(rule, attack, fedavg(steps=sgd(0.1)), **at) > 0.5
    assert distance_from_optimum(rule, attack, momentum, **at) < 0.3
