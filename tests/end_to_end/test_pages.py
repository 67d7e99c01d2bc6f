"""The pages and examples that people will paste from."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.runs.folder import read_metrics

REPOSITORY = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("fedsim", "strategies", "privacy", "scenarios", "examples", "benchmarks")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]


def blocks(page, language):
    text = (REPOSITORY / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("page", "knob"),
    [
        ("docs/guides/lora.md", ["--rank", "2"]),
        ("docs/guides/zeroth_order.md", ["--looks", "2"]),
    ],
)
def test_the_pages_own_experiment_runs(page, knob, tmp_path):
    (script,) = blocks(page, "python")
    (tmp_path / "mine.py").write_text(script)
    command = ["run", str(tmp_path / "mine.py"), *knob, "--rounds", "2"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert len(read_metrics(tmp_path / "run")) == 2


def test_the_readmes_commands_name_what_there_is():
    shell = "\n".join(blocks("README.md", "sh"))
    for name in re.findall(r"fedsim (?:run|plan) (\w+)", shell):
        assert any((REPOSITORY / "scenarios").rglob(f"{name}.py")), name
    for target in re.findall(r"^make (\w+)", shell, re.MULTILINE):
        assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


def test_files_stay_under_300_lines():
    long = {str(path): n for path in SOURCES if (n := len(path.read_text().splitlines())) > 300}
    assert long == {}


def test_a_strategy_reads_on_a_few_screens():
    sizes = {
        path.name: len(path.read_text().splitlines())
        for path in SOURCES
        if path.parent.name == "strategies"
    }
    assert {name: n for name, n in sizes.items() if n > 250} == {}


def test_nothing_names_a_path_of_a_machine():
    names = re.compile(r"(^|[^A-Za-z0-9_.])/(work|root|home|Users)/")
    guilty = [path for path in SOURCES if names.search(path.read_text())]
    assert guilty == []


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((REPOSITORY / "examples").glob("*.py")), ids=str)
def test_the_example_gives_what_it_promises(example):
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
