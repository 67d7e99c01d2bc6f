"""Studies: arms, seeds, paired differences and verdicts."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.core.errors import InputError
from fedsim.runs.folder import read_metrics
from fedsim.studies.columns import read_columns, summarise_columns
from fedsim.studies.study import (
    Arm,
    Claim,
    Study,
    cells,
    check_study,
    columns,
    findings,
    markdown,
    result,
    table,
)
from tests.helpers.worlds import small_world

SCRIPT = '''
"""Two learning rates on the digits."""
from fedsim.studies.study import Arm, Claim, Study
from scenarios.digits_quickstart import scenario as digits


def study(*, small: bool = False, seeds: int = 2, lr: float = 0.1) -> Study:
    """Fast against slow.

    Args:
        small: nothing here.
        seeds: how many.
        lr: of the fast one.
    """
    worlds = {"Fast & far": lr, "slow": lr / 100}
    return Study(
        paper="nobody's", setting="digits",
        arms=tuple(Arm(name=k, scenario=digits(lr=v, rounds=3)) for k, v in worlds.items()),
        claims=(Claim(says="fast beats slow", arm="Fast & far", than="slow"),),
        seeds=seeds,
    )
'''


def two_arms(**changes):
    arms = tuple(Arm(name=name, scenario=small_world()) for name in ("a", "b"))
    claims = (Claim(says="b beats a", arm="b", than="a"),)
    return Study(**({"paper": "p", "setting": "s", "arms": arms, "claims": claims} | changes))


def verdict(study, a, b):
    results = {"a": dict(enumerate(a)), "b": dict(enumerate(b))}
    (found,) = findings(study, results)
    return found.verdict


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # differences .10, .11, .12: mean .11, t(2) * .01 / sqrt 3 = .025
        ((0.5, 0.5, 0.5), (0.60, 0.61, 0.62), "reproduced"),
        ((0.60, 0.61, 0.62), (0.5, 0.5, 0.5), "not reproduced"),
        # differences .1, -.1, .1: mean .03, half width .29
        ((0.5, 0.6, 0.5), (0.6, 0.5, 0.6), "inconclusive"),
        ((0.5,), (0.9,), "inconclusive"),  # one seed says nothing
    ],
)
def test_a_verdict_is_by_the_interval_of_the_paired_differences(a, b, expected):
    assert verdict(two_arms(), a, b) == expected


def test_with_a_loss_less_is_better():
    study = two_arms(metric="test_loss")
    assert verdict(study, (0.9, 0.91, 0.92), (0.5, 0.5, 0.5)) == "reproduced"


@pytest.mark.parametrize(
    ("b", "expected"),
    [
        ((0.500, 0.501, 0.499), "reproduced"),
        ((0.60, 0.61, 0.62), "not reproduced"),
        ((0.51, 0.49, 0.53), "inconclusive"),
    ],
)
def test_a_claim_of_the_same_is_by_whether_the_interval_lies_within_its_bounds(b, expected):
    claim = Claim(says="as a", arm="b", than="a", kind="same", within=0.01)
    assert verdict(two_arms(claims=(claim,)), (0.5, 0.5, 0.5), b) == expected


def test_differences_are_paired_by_seed():
    results = {"a": {1: 0.1, 2: 0.9, 3: 0.5}, "b": {1: 0.2, 2: 1.0, 3: 0.6}}
    first, second = table(two_arms(), results)
    assert first.difference is None
    assert (second.difference.mean, second.difference.half) == pytest.approx((0.1, 0.0), abs=1e-9)


def test_a_result_is_the_mean_of_the_last_evaluations():
    metrics = [{"test_accuracy": value} for value in (0.1, 0.4, 0.6)] + [{"round": 4}]
    assert result(two_arms(last=2), metrics) == pytest.approx(0.5)
    assert result(two_arms(), metrics) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ()}, "arms must have names of their own"),
        ({"arms": (Arm(name="a", scenario=None),) * 2}, "arms must have names of their own"),
        ({"claims": (Claim(says="", arm="c", than="a"),)}, "a claim must name an arm; got 'c'"),
        ({"seeds": 0}, "seeds must be at least 1"),
    ],
)
def test_a_study_that_means_nothing_is_refused(changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        check_study(two_arms(**changes))


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "rates.py"
    path.write_text(SCRIPT)
    return str(path)


def test_a_study_runs_every_arm_with_every_seed_and_goes_on_where_it_stopped(
    tmp_path, script, capsys
):
    out = tmp_path / "out"
    command = ["run", script, "--rounds", "2", "--workers", "1", "--out", str(out), "--json"]
    assert main([*command, "--seeds", "1", "--lr", "0.2"]) == 0
    before = (out / "fast-far/seed-1/metrics.jsonl").read_bytes()
    said = capsys.readouterr()
    assert "inconclusive: fast beats slow" in said.err
    assert main([*command, "--seeds", "2", "--lr", "0.2", "--resume"]) == 0
    said = capsys.readouterr()
    assert "Fast & far, seed 2" in said.err
    found = json.loads(said.out)
    assert set(found["results"]["slow"]) == {"1", "2"}
    assert (out / "fast-far/seed-1/metrics.jsonl").read_bytes() == before
    assert len(read_metrics(out / "slow/seed-2")) == 2
    assert (out / "study.png").stat().st_size > 10_000
    page = (out / "study.md").read_text()
    assert "| | accuracy % | minus Fast & far, paired | published |" in page
    assert "**inconclusive**: fast beats slow" in page or "reproduced" in page


def test_a_study_refuses_what_belongs_to_a_single_run(tmp_path, script, capsys):
    assert main(["run", script, "--profile"]) == 2
    assert "a study takes neither --profile nor --runtime" in capsys.readouterr().err
    assert main(["plan", script]) == 2
    assert "SCENARIO must be a scenario; got rates, a study" in capsys.readouterr().err
    assert main(["run", script, "--out", str(tmp_path)]) == 2
    assert "--out must be a new folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_arms_of_a_seed_share_split_cohorts_and_first_model(tmp_path, script):
    out = tmp_path / "out"
    assert main(["run", script, "--seeds", "1", "--rounds", "1", "--out", str(out)]) == 0
    rows = [
        json.loads((out / f"{arm}/seed-1/run.json").read_text()) for arm in ("fast-far", "slow")
    ]
    assert rows[0]["data"] == rows[1]["data"]
    first = [read_metrics(out / f"{arm}/seed-1")[0] for arm in ("fast-far", "slow")]
    assert first[0]["cohort"] == first[1]["cohort"]


def test_a_claims_arms_may_be_of_any_scenarios():
    arms = tuple(
        replace(arm, scenario=small_world(rounds=n)) for n, arm in enumerate(two_arms().arms, 1)
    )
    check_study(two_arms(arms=arms))


def test_a_study_takes_no_budget_for_all_its_arms(tmp_path, script, capsys):
    assert main(["run", str(script), "--epsilon", "3", "--out", str(tmp_path / "out")]) == 2
    assert "a study takes no --epsilon" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- what is read from finished runs -------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (["violated"] * 20, "violated 20/20"),
        (["consistent"] * 19 + ["violated"], "consistent 19, violated 1"),
        (["b", "a"], "b 1, a 1"),  # as the seeds have them
        # mean 2, t(2) * 1 / sqrt 3 = 2.48
        ([1.0, 2.0, 3.0], "2.00 +/- 2.48"),
        ([1.83], "1.83"),
        ([0.00123, 0.00123], "0.00123 +/- 0.00000"),
        ([1234.5, 1234.5], "1234 +/- 0"),
        ([0, 0], "0.00 +/- 0.00"),
        ([1.0, math.inf, 1.0, -math.inf, math.nan], "1.00 +/- 0.00, inf 1, -inf 1, nan 1"),
        ([math.inf, math.inf], "inf 2/2"),
        ([None, 1.0, 1.0], "1.00 +/- 0.00, none 1"),
        ([None, None], "none 2/2"),
        ([True, True, False], "yes 2, no 1"),
    ],
)
def test_words_are_counted_over_seeds_and_numbers_are_averaged(answers, text):
    runs = {seed: {"verdict": answer} for seed, answer in enumerate(answers)}
    assert summarise_columns(runs)["verdict"].text() == text
    backwards = dict(reversed(runs.items()))  # as they happened to end
    assert summarise_columns(backwards) == summarise_columns(runs)


def test_a_run_without_an_answer_that_others_have_is_counted():
    found = summarise_columns({1: {"a": "x"}, 2: {}, 3: {"a": "x", "b": 1.5}})
    assert {name: cell.text() for name, cell in found.items()} == {
        "a": "x 2, none 1",
        "b": "1.50, none 2",
    }


def test_what_is_read_has_columns_at_the_end_and_is_empty_where_an_arm_says_nothing():
    study, results = two_arms(), {"a": {1: 0.5, 2: 0.5}, "b": {1: 0.6, 2: 0.6}}
    answers = {"a": {1: {}, 2: {}}, "b": {1: {"verdict": "sound"}, 2: {"verdict": "sound"}}}
    rows = table(study, results, {"a": None, "b": 1.5}, answers)
    assert columns(study, rows) == ["epsilon at delta nan", "verdict"]
    assert [cells(study, rows, row) for row in rows] == [["", ""], ["1.5", "sound 2/2"]]
    page = markdown(study, rows, [])
    assert "| | accuracy % | minus a, paired | epsilon at delta nan | verdict |\n" in page
    assert page.count("| sound 2/2 |") == 1


def test_an_answer_that_is_neither_a_number_nor_a_word_is_refused():
    with pytest.raises(InputError, match=r"study: eps, read from a run, must be a number or a"):
        read_columns(lambda folder: {"eps": [1.0]}, Path())
    assert read_columns(None, Path()) == {}


READING = """
from pathlib import Path

from fedsim.runs.folder import read_metrics


def read(folder: Path) -> dict[str, str | float]:
    rows = read_metrics(folder)
    seed = folder.name.removeprefix("seed-")
    assert (folder / "summary.json").exists()
    return {"seed": f"s{seed}", "rounds": len(rows), "bound": float("inf")}
"""


def test_a_study_reads_its_finished_runs(tmp_path, capsys):
    path, out = tmp_path / "rates.py", tmp_path / "out"
    path.write_text(SCRIPT.replace("seeds=seeds,", "seeds=seeds, reads=read,") + READING)
    command = ["run", str(path), "--rounds", "2", "--workers", "1", "--out", str(out), "--json"]
    assert main([*command, "--seeds", "1"]) == 0
    capsys.readouterr()
    assert main([*command, "--seeds", "2", "--resume"]) == 0  # what was there is read, too
    said = capsys.readouterr()
    found = json.loads(said.out)
    expected = {"seed": "s2", "rounds": 2, "bound": None}  # json has no infinity
    assert found["read"]["slow"]["2"] == expected
    assert found["read"]["Fast & far"].keys() == {"1", "2"}
    for row in found["table"]:
        assert row["read"]["rounds"] == {"mean": {"mean": 2.0, "half": 0.0}, "words": {}, "runs": 2}
        assert row["read"]["bound"] == {"mean": None, "words": {"inf": 2}, "runs": 2}
    page = (out / "study.md").read_text()
    assert "| published | seed | rounds | bound |" in page
    assert page.count("| s1 1, s2 1 | 2.00 +/- 0.00 | inf 2/2 |") == 2
    assert "inf 2/2" in said.err
