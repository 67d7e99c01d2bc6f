"""Noise is as large as the ledger says, on every tensor, at both levels; and the tests can tell.

Two measurements through the mechanisms' own code. The noise: releases of zeros, made independent in
time by M where the noise is correlated, have the ledger's standard deviation, by a chi-square test
that sees 2/3 and 3/2 of it. The canary: the shift that one unit makes, in the direction in which it
makes most of it, in units of the noise, is the ledger's sensitivity over its noise_std. Both are
made to fail by planted bugs.
"""

import importlib
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from fedsim.core import trees
from fedsim.core.dataset import Examples
from fedsim.core.rng import Purpose, client_keys, torch_stream
from fedsim.core.sampling import Everyone
from fedsim.core.settings import Settings
from fedsim.core.updates import Noise, Update
from fedsim.server.round import begin, ledger_entries
from fedsim.server.setup import prepare
from fedsim.testing.linear_world import DIMS, flatten_exactly
from fedsim.world import partition
from privacy import dp_sgd
from privacy.matrix_factorization import toeplitz
from strategies import batch_plans, client_selection
from tests.helpers.mechanisms import (
    BANDED,
    BLT,
    MECHANISMS,
    NU,
    QUIET,
    SHAPES,
    linear_world,
    released,
    shaped,
)

MATRIX = {
    "nu_ftrl steps": NU,
    "banded steps": BANDED,
    "blt steps": BLT,
    "correlated_noise": NU,
    "correlated_noise blt": BLT,
}
TIMES = 3  # releases in a row, where they are correlated


def rebuild_strategy(name) -> Tensor:
    """M for the releases that the test looks at, [t, t]; the identity for independent noise."""
    if name not in MATRIX:
        return torch.eye(1, dtype=torch.float64)
    whole = toeplitz.to_matrix(np.array(MATRIX[name].coefficients[:TIMES]))
    return torch.from_numpy(whole)


class Trials(NamedTuple):
    """Releases, as the sums that noise is added to: [trials, t, d]; the clip norms after them."""

    total: Tensor
    norms: Tensor


def trials(name, data: Tensor, z, seed=1) -> Trials:
    """What is released of data [trials, n, d], each trial with randomness of its own."""
    case = MECHANISMS[name]
    times = len(rebuild_strategy(name))
    run = _steps if case.unit == "example" else _rounds
    return run(case, data, z, times, seed)


def _steps(case, data, z, times, seed) -> Trials:
    """A trial is a client: all of them at once, one step in each of `times` rounds."""
    count, n, dims = data.shape
    one = linear_world(case, data[0], z, seed)
    labels = torch.zeros(count * n, dtype=torch.int64)
    examples = Examples(data.reshape(-1, dims), labels)
    dataset = replace(one.dealt.dataset, train=examples, test=examples)
    source = replace(one.scenario.data, load=lambda _: dataset)
    split = partition.given(np.repeat(np.arange(count), n))
    plan = one.scenario.plan
    if case.kind == "ordered":
        plan = batch_plans.ordered_epochs(epochs=1, batch_size=n)
    scenario = replace(
        one.scenario, data=source, split=split, population=count, cohort=count, plan=plan
    )
    settings = Settings(seed=seed, width=count, workers=1, device="cpu")
    prepared = prepare(scenario, settings)
    states = trees.map_leaves(prepared.client_template, lambda t: t.expand(count, *t.shape).clone())
    totals = []
    for round_num in range(1, times + 1):
        made = prepared.trainer.train(round_num, prepared.broadcast_template, range(count), states)
        flat = torch.cat([t.reshape(count, -1) for t in made.diff.values()], dim=1).double()
        totals.append(flat * (n if case.summed else 1))
        states = made.states
    memory = getattr(states, "memory", None)
    norms = memory if isinstance(memory, Tensor) else torch.zeros(count)
    return Trials(torch.stack(totals, dim=1), norms)


def _rounds(case, data, z, times, seed) -> Trials:
    """A trial is a server: each with a seed of its own, and the same clients."""
    count, n, _ = data.shape
    prepared = linear_world(case, data[0], z)
    mechanism, aggregator = prepared.scenario.mechanism, prepared.scenario.aggregator
    everyone, like, ones = Everyone(torch.ones(n), 1.0), prepared.diff_template, torch.ones(n)
    start = mechanism.init(like)
    if case.make(z).relation == "replace":  # each client noises its own: one is enough
        assert n == 1
        stack = {name: shaped(-data[0, 0])[name].expand(count, *SHAPES[name]) for name in SHAPES}
        keys = client_keys(seed, Purpose.NOISE, 1, torch.arange(count))
        sent = mechanism.bound(start, Update(stack, torch.ones(count), keys)).diff
        total = torch.cat([t.reshape(count, -1) for t in sent.values()], dim=1).double()
        return Trials(total.unsqueeze(1), torch.zeros(count))
    there = [row for row in data[0] if not row.isnan().any()]
    rows = {name: torch.stack([shaped(-row)[name] for row in there]) for name in SHAPES}
    bounded = mechanism.bound(start, Update(rows, ones[: len(there)]))
    whole = aggregator.finish(aggregator.add(aggregator.init(like), bounded), everyone)
    totals, norms = [], []
    for trial in range(count):
        state, own = start, []
        for t in range(1, times + 1):
            noise = Noise(t, lambda r, s=seed + trial: torch_stream(s, Purpose.NOISE, r))
            out, state = mechanism.release(state, whole, noise)
            own.append(flatten_exactly(out.diff) * n)
        totals.append(torch.stack(own))
        norms.append(state if isinstance(state, Tensor) else torch.zeros(()))
    return Trials(torch.stack(totals), torch.stack(norms))


def claimed(name, z):
    """The ledger's entry for a step of one client, or a round of one cohort."""
    prepared = linear_world(MECHANISMS[name], torch.zeros(1, DIMS), z)
    return ledger_entries(prepared, begin(prepared), 1, [0])[0]


def on_the_update(name, z):
    """The part of the noise that is for the update, where the count of short ones has some too."""
    return (z**-2 - (2 * 2.0) ** -2) ** -0.5 / z if "quantile" in name else 1.0


# --- the noise -----------------------------------------------------------------------------------


class WrongNoise(AssertionError):
    """A standard deviation is not what was claimed."""


def check_scale(numbers: Tensor, what: str) -> None:
    """That the numbers are normal with standard deviation 1, by a chi-square test.

    Raises:
        WrongNoise: with probability 2e-4, and for any scale that is 1/5 off almost surely.
    """
    square, n = float(numbers.square().sum()), numbers.numel()
    if 2 * min(chi2.cdf(square, n), chi2.sf(square, n)) < 2e-4:
        raise WrongNoise(f"{what}: {(square / n) ** 0.5:.3f} of the noise that was claimed")


def standardised(name, z, count) -> Tensor:
    """Noise of releases of zeros, independent in time, over the ledger's noise_std."""
    entry, case = claimed(name, z), MECHANISMS[name]
    found = trials(name, torch.zeros(count, 1, DIMS), z).total
    white = torch.einsum("ts,ksd->ktd", rebuild_strategy(name), found)
    return white / (entry.noise_std * case.clip * on_the_update(name, z))


def check_noise(name, z=0.8, count=300, factor=1.0) -> None:
    """The noise of every tensor, and that no two numbers of a release have the same."""
    noise = standardised(name, z, count) * factor
    parts = torch.split(noise, [int(np.prod(shape)) for shape in SHAPES.values()], dim=-1)
    for tensor, part in zip(SHAPES, parts, strict=True):
        check_scale(part, f"{name}, {tensor}")
    rows = noise.reshape(-1, DIMS)
    other = torch.corrcoef(rows.T) - torch.eye(DIMS, dtype=rows.dtype)
    if float(other.abs().max()) > 5 / len(rows) ** 0.5:
        raise WrongNoise(f"{name}: two numbers of a release have noise in common")
    if len(rebuild_strategy(name)) > 1:
        series = noise.transpose(0, 1).reshape(TIMES, -1)
        other = torch.corrcoef(series) - torch.eye(TIMES, dtype=rows.dtype)
        if float(other.abs().max()) > 5 / series.shape[1] ** 0.5:
            raise WrongNoise(f"{name}: M does not make the noise independent in time")


@pytest.mark.parametrize("name", MECHANISMS)
def test_noise_is_what_the_ledger_says_on_every_tensor(name):
    check_noise(name)


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_the_test_sees_two_thirds_and_three_halves_of_the_noise(name, factor):
    noise = standardised(name, 0.8, 300) * factor
    parts = torch.split(noise, [int(np.prod(shape)) for shape in SHAPES.values()], dim=-1)
    for part in parts:  # each tensor by itself, the single number included
        with pytest.raises(WrongNoise, match="of the noise that was claimed"):
            check_scale(part, name)


# --- the canary ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Canary:
    """Two neighbouring data sets of a trial, [n, d] each: with the unit, and without it."""

    inside: Tensor
    outside: Tensor


OTHER = 0.1 * torch.randn(DIMS, generator=torch.Generator().manual_seed(5))
LONG = 1e4 * torch.randn(DIMS, generator=torch.Generator().manual_seed(6))
ZERO = torch.zeros(DIMS)


def canary(name) -> Canary:
    """The worst neighbours of each relation."""
    if name == "batch_clipping":  # one example turns the batch around
        return Canary(torch.stack([LONG, -3 * LONG]), torch.stack([LONG, ZERO]))
    if MECHANISMS[name].kind == "fixed":  # any update for any other
        return Canary(LONG.unsqueeze(0), -LONG.unsqueeze(0))
    without = ZERO
    if "quantile" in name:  # who is not there does not vote either
        without = torch.full((DIMS,), torch.nan)
    return Canary(torch.stack([OTHER, LONG]), torch.stack([OTHER, without]))


def estimated_mu(name, z, count, seed=1) -> float:
    """The canary's shift over the noise's standard deviation, from half in and half out."""
    given, case = canary(name), MECHANISMS[name]
    shift = released(case, given.inside).total - released(case, given.outside).total
    direction, strategy = shift / shift.norm(), rebuild_strategy(name)
    in_time = strategy @ torch.ones(len(strategy), dtype=torch.float64)
    found = []
    for part, data in enumerate((given.inside, given.outside)):
        made = trials(name, data.expand(count // 2, *data.shape), z, seed + part * count)
        white = torch.einsum("ts,ksd->ktd", strategy, made.total)
        along = torch.einsum("ktd,d->kt", white, direction)
        found.append((along @ in_time / in_time.norm(), made.norms))
    (inside, norms_in), (outside, norms_out) = found
    mus = [separation(inside, outside)]
    if "quantile" in name:  # the count of short ones is the other half of the same release
        mus.append(separation(norms_in.log().double(), norms_out.log().double()))
    return float(np.hypot(*mus)) if len(mus) == 2 else mus[0]


def separation(inside: Tensor, outside: Tensor) -> float:
    """|Difference of means| over the pooled standard deviation."""
    pooled = ((inside.var() + outside.var()) / 2).sqrt()
    return abs(float((inside.mean() - outside.mean()) / pooled))


class WrongCanary(AssertionError):
    """A unit is seen better, or less well, than the ledger says."""


def check_canary(name, z=1.0, count=None) -> None:
    """The canary's mu is the ledger's, within 6 %.

    Raises:
        WrongCanary: it is not.
    """
    many = MECHANISMS[name].unit == "example" or name == "local_dp"
    count = count or (20_000 if many else 5_000 if name == "client_dp" else 2_000)
    strategy = rebuild_strategy(name)
    in_time = float((strategy @ torch.ones(len(strategy), dtype=torch.float64)).norm())
    expected = in_time / claimed(name, z).noise_multiplier
    error = 2 / count**0.5 * (1 + expected**2 / 8) ** 0.5  # of a difference over a pooled std
    found = estimated_mu(name, z, count)
    if not abs(found - expected) < max(0.06 * expected, 2.2 * error):
        raise WrongCanary(f"{name}: mu {found:.3f} where the ledger says {expected:.3f}")


@pytest.mark.parametrize("name", [n for n in MECHANISMS if n != "client_dp per layer"])
def test_a_canary_is_seen_as_well_as_the_ledger_says(name):
    check_canary(name)


# --- planted bugs --------------------------------------------------------------------------------


def module(name):
    """The module, where the package has a function of the same name."""
    return importlib.import_module(f"privacy.mechanisms.{name}")


def half_the_noise(monkeypatch):
    """Both levels draw half of what they should."""
    per_example, at_server = module("example_level"), module("client_dp")
    drawn, with_noise = per_example.drawn, at_server.with_noise
    monkeypatch.setattr(
        per_example, "drawn", lambda keys, like: trees.scale(drawn(keys, like), 0.5)
    )
    monkeypatch.setattr(
        at_server, "with_noise", lambda tree, std, stream: with_noise(tree, std / 2, stream)
    )


def no_noise_on_one_tensor(monkeypatch):
    per_example, at_server = module("example_level"), module("client_dp")
    drawn, with_noise = per_example.drawn, at_server.with_noise
    monkeypatch.setattr(
        per_example, "drawn", lambda keys, like: drawn(keys, like) | {"scale": 0 * like["scale"]}
    )
    monkeypatch.setattr(
        at_server,
        "with_noise",
        lambda tree, std, stream: with_noise(tree, std, stream) | {"scale": tree["scale"]},
    )


def no_clip_on_one_tensor(monkeypatch):
    """The layer `head` goes out as it is."""
    for name in ("dp_sgd", "client_dp"):
        where = module(name)
        if hasattr(where, "scaled"):
            scaled = where.scaled
            monkeypatch.setattr(
                where,
                "scaled",
                lambda stack, factors, of=scaled: (
                    of(stack, factors) | {"head.weight": stack["head.weight"]}
                ),
            )
            continue
        sums = where.example_sums

        def loose(task, params, batch, rule, *, of=sums, **more):
            def factors(squares):
                found = rule(squares)
                return found | {"head": torch.ones_like(found["head"])}

            return of(task, params, batch, factors, **more)

        monkeypatch.setattr(where, "example_sums", loose)


def clip_after_averaging(monkeypatch):
    """The sum is clipped, and not its terms."""
    where, at_server = module("dp_sgd"), module("client_dp")
    clipping = module("clipping")
    sums = where.example_sums

    def late(task, params, batch, rule, **more):
        found = sums(
            task,
            params,
            batch,
            lambda squares: {path: torch.ones_like(square) for path, square in squares.items()},
            **more,
        )
        total = found.totals[0]
        short = clipping.scaled(total, rule(clipping.layer_squares(total)))
        return found._replace(totals=(short,))

    monkeypatch.setattr(where, "example_sums", late)
    monkeypatch.setattr(at_server, "scaled", lambda stack, factors: stack)


PLANTED = [
    (half_the_noise, "dp_sgd", check_noise),
    (half_the_noise, "dp_sgd", check_canary),
    (half_the_noise, "batch_clipping", check_noise),
    (half_the_noise, "client_dp", check_noise),
    (half_the_noise, "client_dp", check_canary),
    (no_noise_on_one_tensor, "dp_sgd", check_noise),
    (no_noise_on_one_tensor, "client_dp", check_noise),
    (no_clip_on_one_tensor, "dp_sgd", check_canary),
    (no_clip_on_one_tensor, "client_dp", check_canary),
    (clip_after_averaging, "client_dp", check_canary),
]


@pytest.mark.parametrize(
    ("plant", "name", "check"), PLANTED, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_planted_bug_is_seen(plant, name, check, monkeypatch):
    plant(monkeypatch)
    arguments = {} if check is check_noise else {"count": 2000}
    with pytest.raises((WrongNoise, WrongCanary)):
        check(name, **arguments)


def test_clipping_a_batch_as_a_whole_is_seen(monkeypatch):
    """Then one example moves the sum by up to 2 C: it can turn it."""
    case = MECHANISMS["dp_sgd"]
    turned = [torch.stack([LONG, last]) for last in (-3 * LONG, ZERO)]
    clip_after_averaging(monkeypatch)
    first, second = (released(case, data, QUIET) for data in turned)
    assert float((first.total - second.total).norm()) > 1.9 * first.entries[0].sensitivity


def test_weights_that_the_noise_ignores_are_seen():
    """An aggregator that lets a client count thrice and states the sensitivity of once."""
    case = MECHANISMS["client_dp"]
    honest = case.aggregator

    def add(state, bounded):
        return honest.add(state, replace(bounded, diff=trees.scale(bounded.diff, 3.0)))

    planted = replace(case, aggregator=replace(honest, add=add))
    MECHANISMS["planted"] = planted
    try:
        with pytest.raises(WrongCanary, match=r"mu (2\.[89]|3\.[01]).* where the ledger says 1\."):
            check_canary("planted", count=2000)
    finally:
        del MECHANISMS["planted"]


def test_the_ledger_says_what_the_mechanism_was_made_with():
    """So that both measurements are of the z that a user asked for."""
    for z in (0.5, 2.0):
        assert claimed("dp_sgd", z).noise_multiplier == z
        assert claimed("client_dp", z).noise_multiplier == z
        assert claimed("local_dp", z).noise_multiplier == z / 2
        assert claimed("error_feedback", z).noise_multiplier == pytest.approx(z * 3**0.5)
    assert dp_sgd(noise_multiplier=2.0, clip=3.0).unit == "example"
    assert client_selection.poisson().sampling.kind == "poisson"
