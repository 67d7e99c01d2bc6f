"""Audits that train again and again: models are what they would be alone, and bounds hold."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from fedsim.core.dataset import Dataset, Examples
from fedsim.core.errors import InputError, PrivacyError
from fedsim.models.tasks import classification
from fedsim.models.vision import softmax_regression
from privacy import client_dp, dp_sgd, none
from privacy.accounting import PoissonGaussian, account
from privacy.accounting.gaussian import epsilon_of
from privacy.auditing.bounds import clopper_pearson
from privacy.auditing.membership import inference, lira
from privacy.auditing.membership.inference import SHARED, beside, by_lira, by_loss, claim_of
from privacy.auditing.membership.shadow_models import (
    Game,
    Models,
    coins,
    confidences,
    losses,
    mislabelled,
    train_models,
)
from privacy.mechanisms.clipping import flat
from privacy.mechanisms.dp_sgd import fixed_rule
from strategies import batch_plans, fedavg
from strategies.step_rules import adam, sgd
from tests.helpers.worlds import blobs

DATA = blobs((24,)).load(None)
TASK = classification("softmax", lambda: softmax_regression(5, 3))
STEPS, Q, LR, DELTA = 6, 0.5, 0.5, 1e-5
PRIVATE = dp_sgd(noise_multiplier=1.0)


def game(mechanism=None, targets=(0, 3, 4), **changes) -> Game:
    given = {
        "data": DATA,
        "targets": targets,
        "task": TASK,
        "strategy": fedavg(steps=sgd(LR)),
        "plan": batch_plans.poisson_batches(steps=STEPS, sampling_prob=Q),
        "mechanism": mechanism or none(),
    }
    return Game(**(given | changes))


def trained(what, models=9, seed=1, width=4) -> Models:
    return train_models(what, models=models, seed=seed, width=width, device="cpu")


def assert_same_models(found, expected):
    """Up to rounding: in each step, of a sum over at most 24 examples of numbers of about 1."""
    tolerance = STEPS * 24 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# --- trainings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", [none(), PRIVATE], ids=["without privacy", "dp_sgd"])
@pytest.mark.parametrize("steps", [sgd(LR), adam(0.1)], ids=["sgd", "adam"])
def test_many_at_once_are_what_one_after_the_other_gives(mechanism, steps):
    what = game(mechanism, strategy=fedavg(steps=steps))
    alone = trained(what, width=1).params
    for width in (4, 9):
        assert_same_models(trained(what, width=width).params, alone)
    first, second = (torch.cat([t[i].flatten() for t in alone.values()]) for i in (0, 1))
    assert not torch.allclose(first, second)


def test_a_model_does_not_depend_on_how_many_others_there_are():
    few, many = trained(game(PRIVATE), models=3), trained(game(PRIVATE), models=8)
    assert torch.equal(few.included, many.included[:3])
    assert_same_models(few.params, {name: part[:3] for name, part in many.params.items()})


def test_a_model_is_gradient_descent_on_what_its_coins_let_in():
    plan = batch_plans.poisson_batches(steps=STEPS, sampling_prob=1.0)
    what = game(targets=tuple(range(24)), plan=plan)
    found = trained(what, models=3)
    x, y = DATA.train.x.double(), torch.nn.functional.one_hot(DATA.train.y, 3).double()
    for model in range(3):
        mask = found.included[model].double()
        start = {name: value.double() for name, value in TASK.init(1).items()}
        weight, bias = start.values()
        for _ in range(STEPS):
            off = ((x @ weight.T + bias).softmax(dim=1) - y) * mask[:, None] / mask.sum()
            weight, bias = weight - LR * off.T @ x, bias - LR * off.sum(dim=0)
        expected = dict(zip(start, (weight.float(), bias.float()), strict=True))
        assert_same_models({name: part[model] for name, part in found.params.items()}, expected)


def test_coins_are_fair_and_tell_nothing_of_each_other():
    tossed = coins(seed=3, models=400, targets=100).double()
    assert abs(float(tossed.mean()) - 0.5) < 5 * 0.5 / 200  # 40,000 coins
    agree = (tossed[:, :-1] == tossed[:, 1:]).double(), (tossed[:-1] == tossed[1:]).double()
    for pairs in agree:
        assert abs(float(pairs.mean()) - 0.5) < 5 * 0.5 / pairs.numel() ** 0.5


def test_coins_are_keyed_by_seed_model_and_target():
    tossed = coins(seed=3, models=40, targets=10)
    assert torch.equal(tossed[:7, :4], coins(seed=3, models=7, targets=4))
    assert not torch.equal(tossed, coins(seed=4, models=40, targets=10))


def test_one_target_of_each_model_is_drawn_and_its_coin_has_no_say():
    found = trained(game(targets=(0, 3, 4, 5)), models=800, width=800)
    drawn = torch.bincount(found.asked, minlength=4)
    assert (drawn - 200).abs().max() < 5 * (800 * 0.25 * 0.75) ** 0.5
    was_in = found.included[torch.arange(800), found.asked].double()
    assert abs(float(was_in.mean()) - 0.5) < 5 * 0.5 / 800**0.5
    assert torch.equal(found.asked[:20], trained(game(targets=(0, 3, 4, 5)), models=20).asked)


@pytest.mark.parametrize("mechanism", [none(), PRIVATE], ids=["without privacy", "dp_sgd"])
def test_a_target_that_is_out_changes_nothing(mechanism):
    x = DATA.train.x.clone()
    x[3] += 5
    other = replace(DATA, train=Examples(x, DATA.train.y))
    before, after = trained(game(mechanism)), trained(game(mechanism, data=other))
    was_in = before.included[:, 1]
    assert 0 < int(was_in.sum()) < len(was_in)
    for name, part in before.params.items():
        same = (part == after.params[name]).flatten(1).all(dim=1)
        assert torch.equal(same, ~was_in)


def test_a_training_is_charged_for_its_steps():
    claim = claim_of(trained(game(PRIVATE), models=2), DELTA)
    event = PoissonGaussian(sampling_prob=Q, noise_multiplier=1.0, count=STEPS)
    expected = account([event], DELTA).epsilon
    assert expected <= claim.epsilon <= expected * (1 + 1e-6)  # and for batches that were cut
    assert not claim.gaussian  # it is sampled
    assert claim_of(trained(game(), models=2), DELTA).epsilon is None


def test_losses_and_confidences_are_those_of_each_model():
    what = game(PRIVATE)
    found, rows = trained(what), list(what.targets)
    lost, phi = losses(what, found, at_once=4), confidences(what, found, at_once=4)
    for model in range(9):
        params = {name: part[model] for name, part in found.params.items()}
        logits = TASK.predict(params, DATA.train.x[rows])
        own = torch.nn.functional.cross_entropy(logits, DATA.train.y[rows], reduction="none")
        assert lost[model] == pytest.approx(own.numpy(), rel=1e-5)
        p = np.exp(-lost[model])
        assert phi[model] == pytest.approx(np.log(p / (1 - p)), rel=1e-3, abs=1e-3)


def test_a_mislabelled_example_is_of_the_next_class():
    changed = mislabelled(DATA, [1, 5]).train.y
    moved = (changed - DATA.train.y) % 3
    assert moved.nonzero().flatten().tolist() == [1, 5]
    assert moved[[1, 5]].tolist() == [1, 1]


# --- what an audit says --------------------------------------------------------------------------

LOUD = dp_sgd(noise_multiplier=8.0)
WORST = mislabelled(DATA, [0])
WHOLE = batch_plans.poisson_batches(steps=STEPS, sampling_prob=1.0)


def silent(mechanism):
    """It claims the same and adds next to nothing."""
    return replace(mechanism, example_rule=fixed_rule(flat(1.0), 1e-6))


def audit_of(mechanism, seed, models=200):
    what = game(mechanism, targets=(0,), data=WORST, plan=WHOLE)
    found = trained(what, models=models, seed=seed, width=100)
    return beside(claim_of(found, DELTA), by_loss(what, found, delta=DELTA))


def test_a_mechanism_that_claims_epsilon_and_adds_no_noise_is_found_out():
    audit = audit_of(silent(LOUD), seed=1)
    assert 0.5 < audit.claim.epsilon < 2
    assert audit.verdict.name == "VIOLATED"
    best = max(bound.epsilon for bound in audit.bounds if not bound.hypothesis)
    assert best > audit.claim.epsilon
    assert audit.verdict.alpha == pytest.approx(0.05)


def test_dp_sgd_is_consistent_with_what_it_claims():
    assert {audit_of(LOUD, seed).verdict.name for seed in range(1, 7)} == {"CONSISTENT"}


def test_the_report_is_for_a_person_and_for_json():
    what = game(PRIVATE, targets=tuple(range(10)))
    found = trained(what, models=80, width=80)
    shown = by_loss(what, found, delta=DELTA), by_lira(what, found, delta=DELTA)
    audit = beside(claim_of(found, DELTA), *shown)
    content = json.loads(json.dumps(audit.to_dict()))
    first, second = content["details"]["inferences"]
    assert (first["attack"], second["attack"]) == ("loss of example 0", "LiRA on 10 examples")
    assert first["posterior"] == list(shown[0].interval)
    assert any("LiRA on 10 examples, counts at a" in line for line in audit.lines())
    text = "\n".join(line for one in shown for line in one.lines())
    assert f"AUC {shown[1].roc.auc:.3f}" in text
    assert "no bound" in text


def test_a_threshold_chosen_for_gaussians_gives_more_and_stays_below_the_truth():
    runs, n, mu, stream = 200, 400, 1.5, np.random.default_rng(10)
    truth, found = epsilon_of(DELTA, mu), {True: [], False: []}
    for _ in range(runs):
        scores = stream.normal(mu, 1, n), stream.normal(0, 1, n)
        for gaussian, epsilons in found.items():
            counted = clopper_pearson.at_split(*scores, delta=DELTA, gaussian=gaussian)
            epsilons.append(clopper_pearson.gaussian_lower(counted, delta=DELTA).epsilon)
    assert sum(epsilon > truth for epsilon in found[True]) <= binom.isf(1e-3, runs, 0.05)
    assert truth / 2 < np.mean(found[True]) > 1.05 * np.mean(found[False])


# --- many targets --------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [20, 64, 65])  # fewer than 64 shadows share their variances
def test_leaving_one_out_is_scoring_each_model_by_all_others(models):
    stream = np.random.default_rng(8)
    member = stream.random((models, 7)) < 0.5
    phi = stream.normal(3, 2, 7) + 1.5 * member + stream.standard_normal((models, 7))
    found = lira.leave_one_out(phi, member)
    for k in range(models):
        others = np.arange(models) != k
        expected = lira.scores(phi[k], phi[others], member[others])
        assert found[k] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_without_privacy_lira_finds_who_is_learned_by_heart():
    targets = tuple(range(0, 24, 2))
    what = game(targets=targets, data=mislabelled(DATA, targets))
    shown = by_lira(what, trained(what, models=150, width=150), delta=DELTA)
    pairs = len(shown.inside)
    assert pairs + len(shown.outside) == 150 * 12
    assert shown.roc.auc > 0.5 + 5 * (12 / (12 * pairs)) ** 0.5  # as if only models counted
    assert shown.counts.positives + shown.counts.negatives == 75


def told(stream, models, targets, epsilon):
    """A game whose models say of every target what Laplace noise leaves, the same for all."""
    included = stream.random((models, targets)) < 0.5
    phi = included + stream.laplace(0, 1 / epsilon, (models, 1))
    task = replace(
        TASK,
        predict=lambda params, x: torch.stack([params["phi"], 0 * params["phi"]], dim=-1),
    )
    labels = Examples(torch.zeros(targets, 1), torch.zeros(targets, dtype=torch.int64))
    data = Dataset(name="told", train=labels, test=labels, num_classes=2)
    return game(task=task, data=data, targets=tuple(range(targets))), Models(
        params={"phi": torch.from_numpy(phi)},
        included=torch.from_numpy(included),
        asked=torch.from_numpy(stream.integers(targets, size=models)),
        entries=(),
        seed=0,
    )


def test_one_example_a_model_is_a_bound_and_all_examples_take_something_for_granted(monkeypatch):
    """Each target leaks epsilon = 1, but all of a model stand or fall together."""
    monkeypatch.setattr(inference.bayes, "credible_interval", lambda *_, **__: (0.0, 0.0))
    runs, stream = 200, np.random.default_rng(9)
    above = {"": 0, SHARED: 0}
    best = []
    for _ in range(runs):
        shown = by_lira(*told(stream, 100, 200, 1.0), delta=0.0, rate=0.1)
        for bound in shown.bounds:
            above[bound.hypothesis] += bound.epsilon > 1.0
        best.append(max(bound.epsilon for bound in shown.bounds if not bound.hypothesis))
    most = int(binom.isf(1e-3, runs, 0.05))
    assert above[""] <= most < above[SHARED]
    assert max(best) > 0  # it says something


def test_a_bound_that_takes_independence_for_granted_proves_nothing():
    what = game(silent(LOUD), targets=tuple(range(24)), data=WORST)
    found = trained(what, models=200, width=200)
    shown = by_lira(what, found, delta=DELTA)
    together = [bound for bound in shown.bounds if bound.hypothesis == SHARED]
    claim = replace(claim_of(found, DELTA), epsilon=together[0].epsilon / 2)
    assert claim.epsilon > 0
    audit = beside(claim, replace(shown, bounds=tuple(together)))
    assert audit.verdict.name == "CONSISTENT"
    assert any("if what it takes for granted is true" in line for line in audit.all_warnings)


# --- what is refused -----------------------------------------------------------------------------

TRAINED = SimpleNamespace(game=game(PRIVATE), models=trained(game(PRIVATE), models=12))
BAD = {
    "no target": lambda: game(targets=()),
    "a target that is no row": lambda: game(targets=(24,)),
    "a target twice": lambda: game(targets=(2, 2)),
    "a target that is no number": lambda: game(targets=(1.5,)),
    "clients protected": lambda: game(client_dp(noise_multiplier=1.0)),
    "no model": lambda: trained(game(), models=0),
    "a width of 0": lambda: trained(game(), width=0),
    "a negative seed": lambda: trained(game(), seed=-1),
    "batches with replacement": lambda: trained(
        game(PRIVATE, plan=batch_plans.random_batches(steps=2, batch_size=3))
    ),
    "a target that was not played": lambda: by_loss(
        TRAINED.game, TRAINED.models, delta=DELTA, target=3
    ),
    "alpha of 0": lambda: by_loss(TRAINED.game, TRAINED.models, delta=DELTA, alpha=0.0),
    "delta of 1": lambda: by_loss(TRAINED.game, TRAINED.models, delta=1.0),
    "NaN delta of a claim": lambda: claim_of(TRAINED.models, math.nan),
    "a rate of 1": lambda: by_lira(TRAINED.game, TRAINED.models, delta=DELTA, rate=1.0),
    "too few models": lambda: by_lira(TRAINED.game, trained(TRAINED.game, models=2), delta=DELTA),
    "shadows of other shape": lambda: lira.leave_one_out(np.ones((4, 2)), np.ones((4, 3))),
    "no shadows": lambda: lira.leave_one_out(np.ones(3), np.ones(3, bool)),
}


@pytest.mark.parametrize("what", BAD)
def test_it_is_refused_in_one_line(what):
    with pytest.raises(InputError, match=r"^\w+: [\w ]+ must .+; got .+\. \w.+\.$") as caught:
        BAD[what]()
    assert "\n" not in str(caught.value)


def test_nobody_protected_is_refused_as_a_claim_and_not_as_a_game():
    with pytest.raises(PrivacyError):
        game(client_dp(noise_multiplier=1.0))
    assert beside(claim_of(trained(game(), models=2), DELTA)).verdict.name == "UNSUPPORTED"
