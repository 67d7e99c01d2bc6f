"""Attacks do what they say, and nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fedsim.cli import main
from fedsim.core import trees
from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.runs.description import describe
from fedsim.server.round import begin, finish_round, plan_round, train
from fedsim.server.setup import check_scenario, prepare
from fedsim.testing import direct
from fedsim.world import attacks
from fedsim.world.attacks import inner_product, label_flip, largest_z, little_is_enough, sign_flip
from scenarios.shared.knobs import aggregator_named, attack_named
from strategies.aggregators import mean
from strategies.aggregators._gather_all import gather_all
from tests.helpers.worlds import run_by_hand, small_world

TWELVE = {"sizes": (20,) * 12, "cohort": 12, "aggregator": mean("uniform")}
BAD, GOOD = [1, 4, 9], [0, 2, 3, 5, 6, 7, 8, 10, 11]


def arrived(attack, width=12, **changes):
    """What an aggregator gets in round 1, client by client, and the outcome."""
    seen = []

    def combine(stack, num_examples):
        seen.append(stack)
        return {name: value.mean(dim=0) for name, value in stack.items()}

    world = small_world(
        **(TWELVE | {"attack": attack, "aggregator": gather_all("seen", combine)} | changes)
    )
    outcome = run_by_hand(world, width=width).outcome
    rows = {client: trees.select_rows(seen[0], row) for row, client in enumerate(outcome.accepted)}
    return {
        client: torch.cat([v.flatten() for v in tree.values()]) for client, tree in rows.items()
    }, outcome


# --- who attacks ---------------------------------------------------------------------------------


def test_attackers_are_those_given_or_drawn_for_the_seed():
    assert attacks.choose_attackers(sign_flip([7, 2]), 10, seed=1) == {2, 7}
    drawn = [attacks.choose_attackers(sign_flip(30), 200, seed) for seed in (1, 1, 2)]
    assert [len(who) for who in drawn] == [30] * 3
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] <= set(range(200))
    assert attacks.choose_attackers(None, 10, seed=1) == set()


def test_the_same_clients_attack_whatever_the_attack():
    who = {
        attacks.choose_attackers(make(5), 50, 3) for make in (label_flip, sign_flip, inner_product)
    }
    assert len(who) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: label_flip(0), "label_flip: clients must be at least 1; got 0"),
        (lambda: sign_flip([]), "sign_flip: clients must be distinct numbers from 0; got "),
        (lambda: sign_flip([3, 3]), "sign_flip: clients must be distinct"),
        (lambda: inner_product([-1]), "inner_product: clients must be distinct"),
        (lambda: sign_flip(1, 0.0), "sign_flip: scale must be > 0"),
        (lambda: little_is_enough(1, -1.0), "little_is_enough: z must be >= 0"),
        (lambda: inner_product(1, 0.0), "inner_product: epsilon must be > 0"),
        (lambda: attack_named("none", attackers=2, strength=None), "attackers must be 0 without"),
        (lambda: attack_named("sign_flip", attackers=0, strength=None), "clients must be at leas"),
        (lambda: attack_named("label_flip", attackers=2, strength=1.0), "must be left out for la"),
        (lambda: attack_named("none", attackers=0, strength=1.0), "must be left out for none"),
        (lambda: aggregator_named("mean", weights="uniform", byzantine=2), "must be 0 for mean"),
        (lambda: aggregator_named("median", weights="uniform", byzantine=2), "must be 0 for med"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("clients", [13, [12]])
def test_attackers_that_the_population_does_not_have_are_refused(clients):
    world = small_world(**TWELVE, attack=sign_flip(clients))
    with pytest.raises(InputError, match=r"sign_flip\(1\): clients must be .* the population, 12;"):
        check_scenario(world, Settings())


# --- what they do --------------------------------------------------------------------------------


def test_a_label_flip_changes_the_training_labels_of_the_attackers_and_no_others():
    plain, hit = (
        prepare(small_world(**TWELVE, attack=attack), Settings())
        for attack in (None, label_flip(BAD))
    )
    before, after = plain.dealt, hit.trainer.population
    for client in range(12):
        y, now = (p.dataset.train.y[p.owned.of(client)] for p in (before, after))
        assert torch.equal(now, 2 - y if client in BAD else y)  # three classes
    assert torch.equal(before.dataset.test.y, after.dataset.test.y)
    assert hit.dealt.dataset.fingerprint() == before.dataset.fingerprint()
    np.testing.assert_array_equal(hit.dealt.label_counts(), before.label_counts())


def test_a_sign_flip_sends_the_attackers_update_times_minus_scale():
    honest, sent = arrived(None)[0], arrived(sign_flip(BAD, 3.0))[0]
    for client in range(12):
        torch.testing.assert_close(sent[client], honest[client] * (-3 if client in BAD else 1))


def test_little_is_enough_sends_the_honest_mean_less_z_standard_deviations():
    honest, sent = arrived(None)[0], arrived(little_is_enough(BAD, 1.5))[0]
    rows = torch.stack([honest[client] for client in GOOD])
    lie = rows.mean(dim=0) - 1.5 * rows.std(dim=0, correction=0)
    for client in range(12):
        torch.testing.assert_close(sent[client], lie if client in BAD else honest[client])


def test_an_inner_product_manipulation_sends_minus_epsilon_times_the_honest_mean():
    honest, sent = arrived(None)[0], arrived(inner_product(BAD, 0.3))[0]
    lie = -0.3 * torch.stack([honest[client] for client in GOOD]).mean(dim=0)
    for client in range(12):
        torch.testing.assert_close(sent[client], lie if client in BAD else honest[client])


@pytest.mark.parametrize(("honest", "attacking"), [(38, 12), (39, 12), (16, 4), (9, 3)])
def test_at_the_papers_z_the_clients_further_out_and_the_attackers_are_a_majority(
    honest, attacking
):
    z = largest_z(honest, attacking)
    further = honest * norm.sf(z)
    assert further + attacking == pytest.approx((honest + attacking) // 2 + 1)


def test_the_papers_z_is_zero_for_too_few_attackers_and_stays_finite_for_a_majority():
    assert largest_z(19, 1) == 0  # 10 of 19 would have to be further out
    assert largest_z(3, 17) == pytest.approx(norm.ppf(2 / 3))
    assert largest_z(1, 1) == 0


def test_an_attack_does_not_depend_on_how_replies_are_portioned():
    one, many = (arrived(little_is_enough(BAD), width)[0] for width in (12, 1))
    for client in range(12):
        torch.testing.assert_close(one[client], many[client], rtol=1e-4, atol=1e-5)


def test_portions_may_reuse_the_memory_of_earlier_ones():
    def in_one_memory(portions):
        for portion in portions:
            yield portion
            for tensor in portion.update.diff.values() if portion.update else ():
                tensor.fill_(torch.nan)

    models = []
    for treated in (iter, in_one_memory):
        world = small_world(**TWELVE, attack=inner_product(BAD))
        prepared = prepare(world, Settings(width=5, device="cpu"))
        forth, held = direct(prepared), begin(prepared)
        work = plan_round(prepared, held, 1, {}, forth)

        def exchange(work, forth=forth, treated=treated):
            return treated(forth(work))

        outcome = finish_round(prepared, held, work, train(prepared, work, exchange))
        models.append(outcome.state.strategy.params)
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_attackers_do_not_know_an_update_that_is_not_finite_and_it_is_dropped():
    sent, outcome = arrived(inner_product(BAD), poison=0)
    rows = torch.stack([sent[client] for client in GOOD if client != 0])
    torch.testing.assert_close(sent[1], -0.5 * rows.mean(dim=0))
    assert outcome.rejected == {0: "the update is not finite"}


@pytest.mark.parametrize("make", [little_is_enough, inner_product])
def test_without_honest_updates_attackers_send_their_own(make):
    clients = list(range(12))
    honest, sent = arrived(None)[0], arrived(make(clients))[0]
    assert all(torch.equal(honest[client], sent[client]) for client in clients)


def test_without_update_poisoning_replies_are_not_changed():
    for attack, ahead in ((None, 1), (label_flip(BAD), 1), (sign_flip(BAD), 12)):
        pulled, at_first_add = [0], []
        rule = mean("uniform")

        def add(state, bounded, rule=rule, pulled=pulled, seen=at_first_add):
            seen.append(pulled[0])
            return rule.add(state, bounded)

        world = small_world(**(TWELVE | {"attack": attack, "aggregator": replace(rule, add=add)}))
        prepared = prepare(world, Settings(width=1, device="cpu"))
        exchange, held = direct(prepared), begin(prepared)
        work = plan_round(prepared, held, 1, {}, exchange)

        def counted(work, exchange=exchange, pulled=pulled):
            for portion in exchange(work):
                pulled[0] += len(portion.clients)
                yield portion

        finish_round(prepared, held, work, train(prepared, work, counted))
        assert at_first_add[0] == ahead


def test_an_attack_without_attackers_in_the_cohort_changes_nothing():
    quiet = small_world(sizes=(20,) * 12, cohort=1, aggregator=mean("uniform"))
    models = [run_by_hand(quiet).models[-1]]
    bystanders = set(range(12)) - set(run_by_hand(quiet).outcome.accepted)
    models.append(run_by_hand(replace(quiet, attack=sign_flip(sorted(bystanders)))).models[-1])
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


# --- an attack is visible ------------------------------------------------------------------------


def test_the_description_of_a_run_names_the_attack_and_the_attackers():
    for attack in (None, little_is_enough(BAD)):
        prepared = prepare(small_world(**TWELVE, attack=attack), Settings())
        algorithm = describe("small", {}, prepared, "cohort")["algorithm"]
        if attack is None:
            assert not {"attack", "attackers"} & algorithm.keys()
        else:
            assert algorithm["attack"] == "little_is_enough"
            assert algorithm["attackers"] == BAD


def test_a_plan_names_the_attack(tmp_path, capsys):
    script = tmp_path / "attacked.py"
    script.write_text(
        "from dataclasses import replace\n"
        "from fedsim.world.attacks import sign_flip\n"
        "from scenarios.digits_quickstart import scenario as digits\n"
        "def scenario():\n"
        "    return replace(digits(rounds=1, cohort=3), attack=sign_flip(24, 4.0))\n"
    )
    assert main(["plan", str(script), "--width", "3", "--workers", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert "sign_flip(4) by 24 clients" in captured.err
    assert json.loads(captured.out)["attack"] == "sign_flip(4)"
