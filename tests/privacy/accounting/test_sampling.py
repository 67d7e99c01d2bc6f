"""How units come into a release: what accountants build on, tested as a law."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi2, chisquare
from torch import Tensor

from fedsim.core.rng import Purpose, client_keys, numpy_stream
from fedsim.core.sampling import Draw
from strategies import batch_plans, client_selection

N, Q, CLIENTS, STEPS = 30, 0.15, 200, 20


def in_batches(plan, counts, round_num=1, seed=1) -> Tensor:
    """Who is in which batch: [clients, steps, n], of 0 and 1."""
    counts = torch.as_tensor(counts)
    keys = client_keys(seed, Purpose.BATCHES, round_num, torch.arange(len(counts)))
    places = plan.schedule(counts, keys, round_num, None)
    n = int(counts.max())
    hits = torch.zeros(*places.shape[:2], n + 1, dtype=torch.int64)
    hits.scatter_add_(2, torch.where(places < 0, n, places), torch.ones_like(places))
    assert int(hits[..., :n].max()) <= 1  # nobody is in a batch twice
    return hits[..., :n]


@pytest.fixture(scope="module")
def drawn() -> Tensor:
    """[trials, n]: 4000 batches of clients of 30 examples."""
    plan = batch_plans.poisson_batches(steps=STEPS, sampling_prob=Q)
    return in_batches(plan, [N] * CLIENTS).reshape(-1, N)


def test_the_size_of_a_poisson_batch_is_binomial(drawn):
    sizes = drawn.sum(dim=1).numpy()
    seen = [(sizes == size).sum() for size in range(12)] + [(sizes > 11).sum()]
    for prob, right in ((Q, True), (0.2, False)):
        law = [*binom.pmf(range(12), N, prob), binom.sf(11, N, prob)]
        likely = chisquare(seen, len(sizes) * np.array(law)).pvalue
        assert likely > 1e-3 if right else likely < 1e-9
    assert seen[0] > 10  # empty ones are among them


def test_every_example_is_as_likely_as_any_other_in_every_step(drawn):
    """The first and the last one, too, of a draw by gaps."""
    trials = len(drawn)
    hits = drawn.sum(dim=0).double()
    statistic = ((hits - trials * Q) ** 2 / (trials * Q * (1 - Q))).sum()
    assert 1e-3 < chi2.sf(float(statistic), N) < 1 - 1e-3
    by_step = drawn.reshape(CLIENTS, STEPS, N).sum(dim=(0, 2)).double()
    trials = CLIENTS * N
    statistic = ((by_step - trials * Q) ** 2 / (trials * Q * (1 - Q))).sum()
    assert 1e-3 < chi2.sf(float(statistic), STEPS) < 1 - 1e-3


def test_two_examples_are_together_as_often_as_independent_ones_are(drawn):
    centred = drawn.double() - Q
    together = centred.T @ centred / (len(drawn) ** 0.5 * Q * (1 - Q))  # standard normal each
    pairs = together[torch.triu_indices(N, N, 1).unbind()]
    assert 1e-3 < chi2.sf(float(pairs.square().sum()), len(pairs)) < 1 - 1e-3


def test_steps_rounds_and_clients_are_drawn_independently():
    plan = batch_plans.poisson_batches(steps=STEPS, sampling_prob=Q)
    first, second = (in_batches(plan, [N] * CLIENTS, r).double() - Q for r in (1, 2))
    unit = Q * (1 - Q)
    pairs = {
        "steps": (first[:, :-1], first[:, 1:]),
        "rounds": (first, second),
        "clients": (first[:-1], first[1:]),
        "neighbours": (first[..., :-1], first[..., 1:]),
    }
    for what, (a, b) in pairs.items():
        correlation = float((a * b).sum()) / (unit * a.numel() ** 0.5)
        assert abs(correlation) < 4, what


@pytest.mark.parametrize("prob", [1e-6, 0.3, 1.0])
def test_every_client_that_has_an_example_takes_all_steps(prob):
    plan = batch_plans.poisson_batches(steps=7, sampling_prob=prob)
    found = in_batches(plan, [1, 5, 400])
    assert found.shape[:2] == (3, 7)
    assert [plan.num_steps(count) for count in (0, 1, 5, 400)] == [0, 7, 7, 7]
    assert not found[0, :, 1:].any()  # nobody beyond the client's own examples
    assert not found[1, :, 5:].any()
    if prob == 1.0:
        assert found.sum(dim=2).tolist() == [[1] * 7, [5] * 7, [400] * 7]
    assert plan.expected(400) == 400 * prob


def test_a_clients_poisson_batches_do_not_depend_on_the_others_of_the_call():
    plan = batch_plans.poisson_batches(steps=5, sampling_prob=0.4)
    keys = client_keys(1, Purpose.BATCHES, 1, torch.tensor([3, 8, 9]))
    counts = torch.tensor([6, 300, 1])
    together = plan.schedule(counts, keys, 1, None)
    for i in range(3):
        alone = plan.schedule(counts[i : i + 1], keys[i : i + 1], 1, None)[0]
        assert torch.equal(together[i, :, : alone.shape[1]], alone)
        assert (together[i, :, alone.shape[1] :] == -1).all()


def test_a_batch_is_cut_so_seldom_that_delta_does_not_notice():
    plan = batch_plans.poisson_batches(steps=1, sampling_prob=0.01)
    assert plan.sampling.overflow == 1e-40
    assert batch_plans.poisson_batches(steps=1, sampling_prob=1.0).sampling.overflow == 0.0
    for count in (10, 1000, 60_000):
        mean, rare = 0.01 * count, 40 * np.log(10)
        longest = min(count, np.ceil(mean + rare / 3 + np.sqrt(rare**2 / 9 + 2 * rare * mean)))
        assert longest == count or binom.logsf(longest, count, 0.01) < -rare


# --- clients -------------------------------------------------------------------------------------


def cohorts(chooser, population, cohort, rounds, seed=1):
    state, found = chooser.init(population), []
    for round_num in range(1, rounds + 1):
        draw = Draw(
            population=population,
            cohort=cohort,
            rounds=rounds,
            round_num=round_num,
            stream=numpy_stream(seed, Purpose.COHORT, round_num),
            scores=None,
        )
        chosen, state = chooser.choose(state, draw)
        found.append(list(chosen))
    return found


def test_a_poisson_cohort_is_binomial_and_its_clients_are_independent():
    found = cohorts(client_selection.poisson(), 20, 3, 3000)
    taken = np.zeros((3000, 20))
    for round_num, chosen in enumerate(found):
        taken[round_num, chosen] = 1
    q = 3 / 20
    sizes = taken.sum(axis=1)
    law = binom.pmf(range(8), 20, q)
    seen = [(sizes == c).sum() for c in range(8)] + [(sizes > 7).sum()]
    assert chisquare(seen, 3000 * np.array([*law, 1 - law.sum()])).pvalue > 1e-3
    assert [] in found
    centred = (taken - q) / np.sqrt(q * (1 - q))
    together = (centred.T @ centred)[np.triu_indices(20, 1)] / np.sqrt(3000)
    assert 1e-3 < chi2.sf((together**2).sum(), len(together)) < 1 - 1e-3
    in_time = (centred[1:] * centred[:-1]).sum() / np.sqrt(centred[1:].size)
    assert abs(in_time) < 4


@pytest.mark.parametrize(("population", "cohort"), [(12, 3), (13, 4), (7, 7), (9, 1), (11, 6)])
def test_in_turn_nobody_comes_again_before_all_others_have_come(population, cohort):
    found = cohorts(client_selection.cyclic(), population, cohort, 3 * population)
    groups = population // cohort
    for start in range(0, 2 * groups, groups):
        assert sorted(c for chosen in found[start : start + groups] for c in chosen) == list(
            range(population)
        )
    for client in range(population):
        rounds = [t for t, chosen in enumerate(found) if client in chosen]
        assert set(np.diff(rounds)) == {groups}


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_in_order_the_steps_between_two_uses_of_an_example_are_always_as_many(count):
    plan, batches = batch_plans.ordered_epochs(epochs=3, batch_size=4), -(-count // 4)
    own = torch.cat([in_batches(plan, [count, 3], r)[0][: plan.num_steps(count)] for r in (1, 2)])
    for example in range(count):
        steps = torch.nonzero(own[:, example]).flatten()
        assert len(steps) == 6
        assert set(torch.diff(steps).tolist()) == {batches}
