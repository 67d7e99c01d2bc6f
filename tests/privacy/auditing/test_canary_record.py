"""What canaries saw, made up from the Gaussian model that a run promises, and what an audit says.

Directions are drawn and every projection is computed: overlaps are in it as in a run.
"""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from fedsim.core.errors import InputError, PrivacyError
from fedsim.core.ledger import Entry, sealed
from privacy.auditing.bounds import cosine
from privacy.auditing.noise import round_test
from privacy.auditing.noise.from_canaries import wired
from privacy.auditing.run import canary_attack
from privacy.auditing.run.canary_record import Record, read
from privacy.auditing.run.report import audit
from privacy.matrix_factorization import banded, nu_ftrl, toeplitz
from privacy.mechanisms.readers import reader_of

POPULATION, COHORT, DELTA = 200, 40, 1e-5
BANDS = nu_ftrl(0.2, rounds=60)
GROUPS = banded(2, rounds=60, separation=2, participations=30)


def described(made):
    parameters = json.loads(json.dumps(made.parameters))
    return {"factorisation": {"name": made.name, "parameters": parameters, "rounds": made.rounds}}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A way to run, as a ledger has it."""

    mechanism: str = "gaussian"
    sampler: dict
    relation: str = "zero_out"
    made: object = None
    unit: str = "client"

    def entry(self, z, round_num=1, details=None):
        moved = 2 if self.relation == "replace" else 1
        made = {} if self.made is None else described(self.made)
        return Entry(
            round=round_num,
            unit=self.unit,
            relation=self.relation,
            mechanism=self.mechanism,
            sampler=self.sampler,
            sensitivity=0.5 * moved,
            noise_std=0.5 * z,
            noise_multiplier=z / moved,
            details=made if details is None else details,
        )


POISSON = Kind(sampler={"kind": "poisson", "sampling_prob": 0.2})
FIXED = Kind(
    sampler={"kind": "fixed", "population": POPULATION, "cohort": COHORT}, relation="replace"
)
CYCLIC = Kind(sampler={"kind": "cyclic"})
LOCAL = Kind(mechanism="local", sampler={"kind": "poisson"}, relation="replace")
GROUPED = Kind(sampler={"kind": "grouped", "sampling_prob": 0.4, "groups": 2, "group": 0})
TURNS = Kind(mechanism="correlated", sampler={"kind": "cyclic"}, made=BANDS)
BY_GROUP = Kind(
    mechanism="correlated",
    made=GROUPS,
    sampler={"kind": "grouped", "sampling_prob": 0.4, "groups": 2, "group": 0},
)
KINDS = {
    "poisson": POISSON,
    "fixed": FIXED,
    "cyclic": CYCLIC,
    "local": LOCAL,
    "grouped": GROUPED,
    "correlated in turn": TURNS,
    "correlated in groups": BY_GROUP,
}


def over_time(made):
    return toeplitz.to_matrix(made.strategy) if made.strategy.ndim == 1 else made.strategy


def chosen(kind, stream, rounds, canaries):
    """Who is asked; canaries are the last clients."""
    clients = np.arange(POPULATION - canaries, POPULATION)
    turn = np.arange(rounds)[:, None]
    name, drawn = kind.sampler["kind"], stream.random((rounds, canaries))
    if name == "cyclic":
        return clients // COHORT == turn % (POPULATION // COHORT)
    if name == "fixed":
        picked = [stream.permutation(POPULATION)[:COHORT] for _ in range(rounds)]
        return np.stack([np.isin(clients, one) for one in picked])
    if name == "grouped":
        return (drawn < 0.4) & (clients % 2 == turn % 2)
    return drawn < 0.2


def world(
    kind=POISSON, *, seed=0, z=1.0, rounds=60, canaries=100, dims=2000, share=1.0, length=1.0
) -> Record:
    """A run's canaries. share: of the noise that is there. length: sent, in clip norms."""
    stream = np.random.default_rng(seed)
    ways = cosine.directions(canaries, dims, stream)
    included, asked = stream.random(canaries) < 0.5, chosen(kind, stream, rounds, canaries)
    out = -1.0 if kind.relation == "replace" else 0.0
    sent = length * asked * np.where(included, 1.0, out)
    if kind.mechanism == "local":
        seen = sent + z * share * stream.standard_normal((rounds, canaries))
        seen = np.where(asked, seen, np.nan)
        moved = sent.sum(axis=0) @ ways
    else:
        drawn = z * share * stream.standard_normal((rounds, dims))
        if kind.made is not None:
            drawn = np.linalg.solve(over_time(kind.made)[:rounds, :rounds], drawn)
        released = sent @ ways + drawn
        seen, moved = released @ ways.T, released.sum(axis=0)
    return Record(
        of_examples=False,
        opposed=kind.relation == "replace",
        included=included,
        dims=dims,
        asked=asked,
        seen=seen,
        cosines=cosine.cosines(ways, moved),
    )


def model(entry):
    """How canaries are observed in an entry."""
    return reader_of(entry).audit(entry)


def found(record, kind=POISSON, z=1.0):
    return canary_attack.examine(record, [kind.entry(z)], DELTA)


def leaks(findings) -> bool:
    return any(one.leaks for one in (*findings.wiring, findings.quiet))


def auc(scores, included) -> float:
    inside, outside = scores[included][:, None], scores[~included][None, :]
    return float(((inside > outside) + 0.5 * (inside == outside)).mean())


# --- what is right is found right ----------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_run_with_all_its_noise_is_not_accused(name):
    kind = KINDS[name]
    findings = [found(world(kind, seed=seed, z=0.8), kind, 0.8) for seed in range(6)]
    assert not any(leaks(one) for one in findings)
    assert all(one.passed for each in findings for one in (*each.wiring, each.quiet))
    assert all(each.wiring for each in findings)


def test_in_many_runs_false_alarms_are_as_rare_as_promised():
    """Wiring leaks with 0.0005 and quiet with less than 0.00075: of 300 runs, none or one."""
    runs = [found(world(seed=seed, rounds=20, canaries=30, dims=300, z=1.0)) for seed in range(300)]
    assert sum(leaks(one) for one in runs) <= 2  # P(3 or more) is 0.006


def test_more_canaries_than_dimensions_accuse_nobody():
    """Squares of 600 projections are those of 120 numbers; at a level of 5 percent, in 20 runs."""
    runs = [
        world(seed=s, rounds=40, canaries=600, dims=120, length=0.0).seen for s in range(20)
    ]  # nothing is sent, and nothing overlaps
    seen = [round_test.quiet(one, noise_multiplier=1.0, dims=120, alpha=0.05) for one in runs]
    assert sum(one.leaks for one in seen) <= 4  # P(5 or more) is 0.003
    blind = [round_test.quiet(one, noise_multiplier=1.0, dims=None, alpha=0.05) for one in runs]
    assert sum(one.leaks for one in blind) > 10


def test_what_is_known_to_overlap_is_taken_off():
    """Of 100 canaries in 200 dimensions: what 10 of them send adds 10 / 200 to z^2 = 0.04."""
    record = world(seed=1, z=0.2, dims=200)
    ways = cosine.directions(100, 200, np.random.default_rng(1))  # the first that world() draws
    known = replace(record, overlaps=record.sent @ (ways @ ways.T - np.eye(100)))
    plain, exact = found(record, z=0.2), found(known, z=0.2)
    added = record.sent.sum() / 60 / 200
    assert plain.wiring[0].claimed == pytest.approx((0.04 + added) ** 0.5)
    assert plain.quiet.passed
    assert plain.quiet.noise_multiplier == pytest.approx((0.04 + added) ** 0.5, rel=0.1)
    assert exact.wiring[0].claimed == 0.2
    assert exact.wiring[0].passed
    assert exact.quiet.noise_multiplier == pytest.approx(0.2, rel=0.05)


# --- what is wrong is found wrong ----------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_half_of_the_noise_shows(name):
    kind = KINDS[name]
    record = world(kind, share=0.5)
    seen = found(record, kind)
    assert seen.wiring[0].leaks
    assert seen.wiring[0].noise_multiplier < 0.7 * seen.wiring[0].claimed
    assert seen.quiet.leaks
    assert seen.quiet.noise_multiplier == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("name", KINDS)
def test_a_canary_that_was_not_clipped_shows(name):
    kind = KINDS[name]
    (wiring,) = wired(world(kind, length=10.0, dims=20_000), model(kind.entry(1.0)))
    assert wiring.leaks
    assert wiring.noise_multiplier < 0.4 * wiring.claimed


@pytest.mark.parametrize("name", ["poisson", "fixed", "correlated in turn"])
def test_rounds_without_noise_are_named(name):
    """As where a cohort without anybody was passed over: nothing at all is released."""
    record = world(KINDS[name])
    record.asked[[6, 30]] = False
    record.seen[[6, 30]] = 0.0
    check = found(record, KINDS[name]).quiet
    assert {7, 31} <= set(check.silent)
    assert check.leaks
    assert "too little in round 7 and" in str(check)


def test_a_round_without_noise_is_named_where_canaries_hear_each_other():
    record = world(z=0.5, dims=200)
    record.seen[4] = world(z=0.5, dims=200, share=0.0).seen[4]
    assert found(record, z=0.5).quiet.silent == (5,)


def test_more_noise_fails_and_does_not_leak():
    seen = found(world(share=1.5))
    assert not leaks(seen)
    assert not seen.wiring[0].passed
    assert not seen.quiet.passed


def test_a_wrong_step_shows_in_a_probe():
    """Single steps of a client, N(1, z^2) with the canary; z = 0.8, and once half of that."""
    stream, base = np.random.default_rng(3), world()
    for share, wrong in ((1.0, False), (0.5, True)):
        noises = 0.8 * share * stream.standard_normal((2, 2000, 1))
        record = replace(base, of_examples=True, probe=(1 + noises[0], noises[1]))
        (wiring,) = wired(record, model(replace(POISSON.entry(0.8), unit="example")))
        assert wiring.claimed == 0.8
        assert wiring.leaks is wrong


def test_a_probe_of_correlated_noise_is_seen_over_its_steps():
    """Its canary is in the first step: the shift is the length of the strategy's first column."""
    stream, steps = np.random.default_rng(4), 8
    matrix = over_time(BANDS)[:steps, :steps]
    noises = np.linalg.solve(matrix, stream.standard_normal((2, steps, 3000))).transpose(0, 2, 1)
    inside = noises[0] + (np.arange(steps) == 0)
    record = replace(world(), of_examples=True, probe=(inside, noises[1]))
    (wiring,) = wired(record, model(replace(TURNS.entry(1.0), unit="example")))
    assert wiring.claimed == pytest.approx(1 / np.linalg.norm(matrix[:, 0]))
    assert wiring.passed


# --- the attack ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_scores_are_at_least_as_good_as_the_plain_sum(name):
    kind, better = KINDS[name], []
    for seed in range(6):
        record = world(kind, seed=seed, z=0.6, canaries=150)
        ours = canary_attack.scores(record, model(kind.entry(0.6)))
        better.append(
            auc(ours, record.included) - auc(np.nansum(record.seen, axis=0), record.included)
        )
        assert auc(ours, record.included) > 0.7
    assert np.mean(better) > -0.002


def test_under_poisson_they_are_much_better():
    """At little noise the few rounds in which a canary is asked stand out of the many others."""
    record = world(z=0.3, rounds=12)
    ours = canary_attack.scores(record, model(POISSON.entry(0.3)))
    assert auc(ours, record.included) > auc(record.seen.sum(axis=0), record.included) + 0.02


def test_a_score_is_the_log_of_a_mean_of_likelihood_ratios():
    """One round, q = 0.2, z = 2, x = 3: ln(0.8 + 0.2 e^(5/8)); a coin of -1: less that of -3."""
    record = world(rounds=1, canaries=1)
    record.seen[:] = 3.0
    (score,) = canary_attack.scores(record, model(POISSON.entry(2.0)))
    assert score == pytest.approx(np.log(0.8 + 0.2 * np.exp(5 / 8)))
    (score,) = canary_attack.scores(replace(record, opposed=True), model(FIXED.entry(2.0)))
    expected = np.log(0.8 + 0.2 * np.exp(5 / 8)) - np.log(0.8 + 0.2 * np.exp(-7 / 8))
    assert score == pytest.approx(expected)


def test_a_score_in_turn_is_the_ratio_of_two_gaussians():
    """Asked in rounds 1 and 3 of three; the density of what was seen, by the noise's covariance."""
    record = world(TURNS, rounds=3, canaries=1)
    record.asked[:, 0], record.seen[:, 0] = [True, False, True], [0.9, -0.4, 1.7]
    inverse = np.linalg.inv(over_time(BANDS)[:3, :3])
    precise = np.linalg.inv(0.7**2 * inverse @ inverse.T)
    x, sent = record.seen[:, 0], np.array([1.0, 0.0, 1.0])
    expected = (x @ precise @ x - (x - sent) @ precise @ (x - sent)) / 2
    (score,) = canary_attack.scores(record, model(TURNS.entry(0.7)))
    assert score == pytest.approx(expected)


@pytest.mark.parametrize("name", ["poisson", "fixed", "grouped", "correlated in groups"])
def test_who_was_asked_makes_no_difference_where_it_is_secret(name):
    kind = KINDS[name]
    record, stream = world(kind), np.random.default_rng(5)
    other = replace(record, asked=stream.permuted(record.asked, axis=1))
    ours, theirs = (canary_attack.scores(one, model(kind.entry(1.0))) for one in (record, other))
    assert np.array_equal(ours, theirs)


def test_an_example_that_was_never_seen_scores_between_both_kinds():
    stream = np.random.default_rng(6)
    record = replace(world(), of_examples=True)
    record.seen[:] = 0.3 + 0.1 * record.included + 0.05 * stream.standard_normal((60, 100))
    record.seen[stream.random((60, 100)) < 0.7] = np.nan
    record.seen[:, 17] = np.nan
    scores = canary_attack.scores(record, model(replace(POISSON.entry(1.0), unit="example")))
    assert scores[17] == 0.0
    assert auc(scores, record.included) > 0.99
    assert auc(np.nansum(record.seen, axis=0), record.included) < 0.85  # seen often is not in


def test_how_many_are_guessed_depends_on_the_number_of_canaries_alone():
    assert [canary_attack.guesses(m) for m in (10, 11, 50, 100, 500, 1000)] == [
        5,
        5,
        25,
        25,
        25,
        50,
    ]


@pytest.mark.parametrize("name", ["poisson", "fixed", "cyclic", "local"])
def test_the_bound_of_a_correct_run_is_below_its_claim_and_of_one_without_noise_above(name):
    kind, z = KINDS[name], 3.0
    for seed in range(5):
        honest = found(world(kind, seed=seed, z=z, rounds=20), kind, z)
        assert honest.bounds[0].epsilon < 2.5
    lost = found(world(kind, z=z, rounds=20, share=0.02), kind, z).bounds[0]
    # 50 guesses that are all right: q^50 = 0.05 without delta
    assert lost.epsilon == pytest.approx(np.log(0.05**0.02 / (1 - 0.05**0.02)), rel=0.02)


def test_the_estimate_looks_at_canaries_that_were_in_and_asked():
    record = world(rounds=10)
    asked = record.asked.any(axis=0)
    (estimate,) = (found(record).estimate,)
    observed = record.cosines[record.included & asked]
    assert estimate.canaries == len(observed)
    assert estimate.never_asked == int((record.included & ~asked).sum())
    assert estimate.epsilon == cosine.estimate(observed, 2000, delta=DELTA).epsilon
    assert found(world(dims=999)).estimate is None


def test_canaries_that_go_the_opposite_way_are_told_apart_by_twice_the_distance():
    record = world(FIXED)
    estimate = found(record, FIXED).estimate
    asked = record.asked.any(axis=0)
    signed = np.where(record.included, 1, -1) * record.cosines
    mean, std = signed[asked].mean(), signed[asked].std(ddof=1)
    assert estimate.epsilon == pytest.approx(
        cosine.gaussian_epsilon(std, 2 * mean, std, DELTA), rel=1e-9
    )


# --- a whole folder ------------------------------------------------------------------------------


def written(folder, record, kind=CYCLIC, z=1.0, details=None, mechanism="client_dp(z=1)"):
    """A run folder around a record."""
    folder.mkdir()
    description = {
        "privacy": {
            "unit": "example" if record.of_examples else "client",
            "relation": "zero-out",
            "mechanism": mechanism,
            "delta": DELTA,
            "noise_by": "the server",
            "protects_from": "everybody",
            "sampling": "Poisson",
        },
        "rounds": record.rounds,
        "population": POPULATION,
        "cohort": COHORT,
        "settings": {"seed": 7},
        "versions": {"torch": "2"},
    }
    stream = np.random.default_rng(8)
    sizes = stream.binomial(POPULATION, 0.2, record.rounds).tolist()
    if kind is not POISSON:
        sizes = [COHORT] * record.rounds
    entries = [kind.entry(z, t + 1, details) for t in range(record.rounds)]
    rows = [{"round": t + 1, "cohort": size} for t, size in enumerate(sizes)]
    canaries = {
        "unit": "example" if record.of_examples else "client",
        "relation": "replace" if record.opposed else "zero_out",
        "dims": record.dims,
        "included": record.included.astype(int).tolist(),
        "cosines": None if record.cosines is None else record.cosines.tolist(),
        "probe": record.probe
        and {
            "inside": record.probe[0].tolist(),
            "outside": record.probe[1].tolist(),
        },
    }
    seen = [
        {
            "round": t + 1,
            "asked": np.flatnonzero(record.asked[t]).tolist(),
            "seen": [None if x != x else x for x in record.seen[t].tolist()],
        }
        for t in range(record.rounds)
    ]
    (folder / "run.json").write_text(json.dumps(description))
    (folder / "ledger.jsonl").write_text(sealed(entries)[0])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "canaries.json").write_text(json.dumps(canaries))
    (folder / "canaries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seen))
    return folder


def test_what_is_written_is_read(tmp_path):
    for name in ("poisson", "local"):
        record = world(KINDS[name], rounds=5, canaries=12)
        again = read(written(tmp_path / name, record, KINDS[name]))
        assert np.array_equal(again.included, record.included)
        assert np.array_equal(again.asked, record.asked)
        assert np.array_equal(again.seen, record.seen, equal_nan=True)
        assert np.array_equal(again.cosines, record.cosines)
        assert (again.dims, again.opposed, again.probe) == (2000, record.opposed, None)
    (tmp_path / "poisson/canaries.json").unlink()
    (tmp_path / "poisson/canaries.jsonl").unlink()
    assert read(tmp_path / "poisson") is None


@pytest.mark.parametrize(
    ("what", "code"),
    [({}, 0), ({"share": 0.5}, 3), ({"length": 10.0, "dims": 20_000}, 3), ({"canaries": 9}, 5)],
    ids=["consistent", "half the noise", "not clipped", "nine canaries"],
)
def test_the_verdict_on_a_folder(tmp_path, what, code):
    kind = CYCLIC if what else POISSON
    checked = audit(written(tmp_path / "run", world(kind, **what), kind))
    assert checked.exit_code == code, checked.verdict
    content = checked.as_dict()
    json.dumps(content, allow_nan=False)
    assert content["details"] == {"seed": 7, "versions": {"torch": "2"}}
    kinds = [kind for kind, _ in checked.lines()]
    assert not any("no canaries" in words for words in content["warnings"])
    if code != 5:
        assert kinds.count("wiring") == 2
        assert kinds.count("audit") == 3
        assert content["canaries"] == 100
        assert kinds.index("claimed") < kinds.index("wiring") < kinds.index("audit")
        assert kinds.index("audit") < kinds.index("verdict")
    assert checked.draw(tmp_path / "audit.png")


@pytest.mark.parametrize(("share", "code"), [(1.0, 0), (0.5, 3)])
def test_the_verdict_on_canaries_that_are_examples(tmp_path, share, code):
    """Cosines a little larger for examples that are in; the steps' noise is seen by the probe."""
    stream = np.random.default_rng(9)
    whole = {"kind": "shuffled", "passes": 1, "batches": 1}  # all examples in one batch
    example = Kind(sampler=whole, unit="example")
    record = world(CYCLIC, rounds=10)
    record.seen[:] = 0.02 * record.included + 0.01 * stream.standard_normal(record.seen.shape)
    record.seen[~record.asked] = np.nan
    steps = share * stream.standard_normal((2, 1000, 1))
    record = replace(record, of_examples=True, cosines=None, probe=(1 + steps[0], steps[1]))
    checked = audit(written(tmp_path / "run", record, example))
    assert checked.exit_code == code
    kinds = [kind for kind, _ in checked.lines()]
    assert (kinds.count("wiring"), kinds.count("audit")) == (2, 2)


def test_rounds_that_were_passed_over_are_a_violation(tmp_path):
    record = world(CYCLIC)
    record.seen[11] = 0.0
    record.asked[11] = False
    checked = audit(written(tmp_path / "run", record))
    assert checked.exit_code == 3
    assert "too little in round 12" in checked.verdict


def test_a_bound_that_is_gaussian_proves_where_the_claim_is(tmp_path):
    """In turn, each canary is asked in 12 of 60 rounds: mu = sqrt(12), an eighth is charged."""
    checked = audit(written(tmp_path / "run", world(CYCLIC, dims=20_000), z=8.0))
    assert checked.exit_code == 3
    assert "lower bound" in checked.verdict
    assert "under the Gaussian hypothesis" in checked.verdict


def cut(path, lines):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


def test_a_run_that_was_killed_is_audited_by_the_rounds_of_its_metrics(tmp_path):
    folder = written(tmp_path / "run", world(CYCLIC, rounds=20))
    cut(folder / "metrics.jsonl", 12)
    rows = folder / "canaries.jsonl"
    rows.write_text(rows.read_text()[:-40])  # and the last row is cut short
    record = read(folder)
    assert record.rounds == 12
    cut(folder / "metrics.jsonl", 0)
    with pytest.raises(InputError, match=r"metrics\.jsonl must go to the end of the run, round 20"):
        audit(folder)
    cut(folder / "ledger.jsonl", 1)
    (folder / "canaries.jsonl").unlink()
    assert audit(folder).exit_code == 5  # nothing was seen yet


def changed(**values):
    def change(folder):
        path = folder / "canaries.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def row(**values):
    def change(folder):
        lines = (folder / "canaries.jsonl").read_text().splitlines()
        lines[2] = json.dumps(json.loads(lines[2]) | values)
        (folder / "canaries.jsonl").write_text("\n".join(lines) + "\n")

    return change


BAD = {
    "a missing file": (lambda f: (f / "canaries.jsonl").unlink(), "canaries.jsonl must be in"),
    "no JSON": (lambda f: (f / "canaries.json").write_text("{"), "canaries.json must be JSON"),
    "coins": (changed(included=[0, 2]), "included in canaries.json must be a 0 or a 1"),
    "no coins": (changed(included=[]), "included in canaries.json must be a 0 or a 1"),
    "unit": (changed(unit="dog"), "unit in canaries.json must be client or example; got 'dog'"),
    "another unit": (changed(unit="example"), "which protects clients; got examples"),
    "relation": (changed(relation="add"), "relation in canaries.json must be zero_out or replace"),
    "dims": (changed(dims=0), "dims in canaries.json must be a whole number >= 1; got 0"),
    "cosines": (changed(cosines=[0.1]), "cosines in canaries.json must be a number in"),
    "a probe": (changed(probe={"inside": [[1]], "outside": [[1, 2]]}), "probe in canaries.json"),
    "half a probe": (changed(probe={"inside": [[1.0]]}), "probe in canaries.json must be"),
    "a row less": (lambda f: cut(f / "canaries.jsonl", 4), "got 'none of round 5'"),
    "a broken row": (row(round="x"), "line 3 of canaries.jsonl must be an object with its round"),
    "asked": (row(asked=[12]), "asked of round 3 must be different numbers of canaries below 12"),
    "asked twice": (row(asked=[1, 1]), "asked of round 3 must be different numbers"),
    "too few seen": (row(seen=[0.1]), "seen of round 3 must be a finite number or null for each"),
    "text": (row(seen=["a"] * 12), "seen of round 3 must be a finite number or null for each"),
    "infinite": (row(seen=[float("inf")] * 12), "seen of round 3 must be a finite number or null"),
    "unseen": (row(seen=[None] * 12, asked=[]), "seen of round 3 must be a number for every"),
    "asked and unseen": (row(seen=[None] * 12, asked=[1]), "seen of round 3 must be a number for"),
    "a round less": (
        lambda f: (f / "metrics.jsonl").write_text('{"round": 2, "cohort": 40}\n'),
        "line 1 of metrics.jsonl must be of round 1, with its cohort",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_files_that_are_not_as_the_run_wrote_them_are_a_wrong_input(tmp_path, what):
    change, message = BAD[what]
    folder = written(tmp_path / "run", world(CYCLIC, rounds=5, canaries=12))
    change(folder)
    with pytest.raises(InputError) as raised:
        audit(folder)
    assert message in str(raised.value)
    assert "Take it from a copy of the run folder." in str(raised.value)


def test_noise_that_is_not_charged_alike_is_not_judged():
    record = world(rounds=5, canaries=20)
    with pytest.raises(PrivacyError, match="noise must be charged alike in all rounds"):
        canary_attack.examine(record, [POISSON.entry(1.0), POISSON.entry(2.0, 2)], DELTA)


def test_canaries_that_sent_more_often_than_any_client_are_left_out():
    record = world(LOCAL, rounds=10, canaries=40)
    entries = [replace(LOCAL.entry(1.0, t + 1), clients=(0,)) for t in range(2)]
    seldom = (record.asked.sum(axis=0) <= 2) & record.asked.any(axis=0)
    assert 0 < seldom.sum() < 40
    judged = canary_attack.examine(record, entries, DELTA)
    assert judged.canaries == (record.asked.sum(axis=0) <= 2).sum()


def test_others_that_are_not_said_are_a_wrong_input(tmp_path):
    folder = written(tmp_path / "run", world(CYCLIC, rounds=5, canaries=12))
    path = folder / "canaries.jsonl"
    rows = [json.loads(line) | {"overlaps": [None] * 12} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="overlaps of round 1 must be a number for each canary"):
        audit(folder)


@pytest.mark.parametrize("canaries", [400, 1000])
def test_turned_directions_accuse_nobody(canaries):
    # two layers of half the energy each, one of them tiny: directions meet far more often than
    # those of the whole sphere
    stream, leaks = np.random.default_rng(5), 0
    for _ in range(40):
        ways = [cosine.directions(canaries, dims, stream) / 2**0.5 for dims in (200, 4)]
        c = np.hstack(ways)
        meeting = (((c.T @ c) ** 2).sum() - canaries) / (canaries * (canaries - 1))
        seen = stream.standard_normal((20, 204)) @ c.T
        found = round_test.quiet(seen, noise_multiplier=1.0, dims=int(1 / meeting), alpha=0.05)
        leaks += found.leaks
    assert leaks <= 7  # of 40 at 5 %: more happen once in a thousand times


# --- warnings ------------------------------------------------------------------------------------


def test_a_run_that_repeated_rounds_says_so(tmp_path):
    folder = written(tmp_path / "run", world(CYCLIC, rounds=5, canaries=12))
    (folder / "resumed.jsonl").write_text('{"after": 1, "until": 3}\n{"after": 4, "until": 5}\n{"a')
    (words,) = [one for one in audit(folder).as_dict()["warnings"] if "resumed" in one]
    assert "rounds 2-3, 5 were done twice" in words


def test_a_moving_clip_norm_is_charged_or_its_claim_is_not_supported(tmp_path):
    """1 / z^2 = 1 / z_u^2 + 1 / (2 sigma_b)^2: at z = 1 and sigma_b = 1, z_u = 2 / sqrt(3)."""
    record = world(CYCLIC, rounds=20, z=2 / 3**0.5)
    name = "client_dp(z=1, quantile(0.5 from 1))"
    split = {"count_noise": 1.0, "update_noise": 2 / 3**0.5}
    charged = audit(written(tmp_path / "a", record, details=split, mechanism=name))
    assert charged.exit_code == 0
    assert charged.as_dict()["wiring"][0]["claimed"] == pytest.approx(2 / 3**0.5, rel=0.01)
    record = world(CYCLIC, rounds=20, z=1.0)
    short = {"count_noise": 1.0, "update_noise": 1.0}  # as if the count were free
    for place, details in (("b", short), ("c", {})):
        found = audit(written(tmp_path / place, record, details=details, mechanism=name))
        assert found.exit_code == 4
        assert any("adaptive clip is not charged" in one for one in found.as_dict()["warnings"])
    replaced = world(FIXED, rounds=5, canaries=12)
    fixed = written(tmp_path / "fixed", replaced, FIXED, details=short, mechanism=name)
    assert audit(fixed).exit_code == 4
    halved = audit(written(tmp_path / "d", world(CYCLIC, share=0.5), details=short, mechanism=name))
    assert halved.exit_code == 3  # what is proved outranks it
