"""The script that recomputes epsilon from a ledger without this project's code, and its page."""

import json
import re
import runpy
from pathlib import Path

import pytest

from fedsim.cli import main
from privacy import batch_clipping, client_dp, dp_sgd
from strategies import batch_plans, client_selection, fedsam
from strategies.aggregators import public_mean
from strategies.step_rules import sgd
from tests.helpers.mechanisms import MECHANISMS, run_into, several_rounds

REPOSITORY = Path(__file__).parents[3]
SCRIPT = REPOSITORY / "examples" / "epsilon_from_ledger.py"
EXPERIMENT, QUOTED = re.findall(
    r"^```python\n(.*?)^```",
    (REPOSITORY / "docs" / "guides" / "privacy.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)


@pytest.fixture(scope="module")
def epsilon_of():
    return runpy.run_path(str(SCRIPT))["epsilon_of"]


def test_the_page_quotes_the_script_in_full():
    assert SCRIPT.read_text(encoding="utf-8") == QUOTED


def test_the_pages_own_experiment_spends_what_the_script_finds(epsilon_of, tmp_path):
    (tmp_path / "private.py").write_text(EXPERIMENT)
    command = ["run", str(tmp_path / "private.py"), "--epsilon", "4", "--rounds", "4"]
    assert main([*command, "--out", str(tmp_path / "run"), "--width", "2", "--workers", "1"]) == 0
    claimed = json.loads((tmp_path / "run" / "summary.json").read_text())["privacy"]
    assert 0 < claimed["epsilon"] <= 4
    found = epsilon_of(tmp_path / "run" / "ledger.jsonl", claimed["delta"])
    assert found == pytest.approx(claimed["epsilon"], rel=1e-3)


@pytest.mark.parametrize(
    "parts",
    [
        {
            "mechanism": dp_sgd(noise_multiplier=1.0),
            "plan": batch_plans.poisson_batches(steps=2, sampling_prob=0.1),
            "strategy": fedsam(steps=sgd(0.1)),
        },
        {
            "mechanism": batch_clipping(noise_multiplier=1.0),
            "plan": batch_plans.shuffled_epochs(epochs=2, batch_size=4),
        },
        {
            "mechanism": client_dp(noise_multiplier=1.0),
            "aggregator": public_mean(),
            "selection": client_selection.poisson(),
        },
        {
            "mechanism": client_dp(noise_multiplier=1.0),
            "aggregator": public_mean(),
            "selection": client_selection.cyclic(),
        },
    ],
    ids=["two questions a step", "shuffled batches", "Poisson cohorts", "turns"],
)
def test_it_agrees_with_the_accountant_of_the_run(parts, epsilon_of, tmp_path):
    finished = run_into(tmp_path / "run", several_rounds(MECHANISMS["dp_sgd"], **parts))
    found = epsilon_of(tmp_path / "run" / "ledger.jsonl", 1e-5)
    assert found == pytest.approx(finished.account.exactly(), rel=1e-3)


@pytest.mark.parametrize("name", ["error_feedback", "correlated_noise", "client_dp fixed"])
def test_what_it_does_not_know_gets_no_number(name, epsilon_of, tmp_path):
    run_into(tmp_path / "run", several_rounds(MECHANISMS[name], rounds=1))
    with pytest.raises(SystemExit, match="nothing that is done here"):
        epsilon_of(tmp_path / "run" / "ledger.jsonl", 1e-5)
