"""Help and lists answer without the libraries that take seconds to import."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "flwr",
    "numpy",
    "scipy",
    "matplotlib",
    "pandas",
    "sklearn",
    "pyarrow",
    "opacus",
    "dp_accounting",
    "ray",
    "rich",
    "datasets",
    "flwr_datasets",
    "PIL",
}
LOOK = """
import json, sys
from fedsim.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted({name.split(".")[0] for name in sys.modules})]))
"""
SCRIPT = '''
"""Mine."""
import torch

from scenarios.shared.knobs import StrategyName


def scenario(*, strategy: StrategyName = "fedavg", colour: str = "red"):
    """One of mine.

    Args:
        colour: of the sky.
    """
'''


def look(*arguments):
    """The exit code and the printed text of a command, and the packages that it imported."""
    command = [sys.executable, "-c", LOOK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *printed, found = done.stdout.splitlines()
    code, packages = json.loads(found)
    return code, "\n".join(printed), set(packages)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "fedsim list"),
        (["list"], 0, "digits_quickstart"),
        (["list", "--json"], 0, '"digits_quickstart"'),
        (["run", "--help"], 0, "Studies:"),
        (["run", "fashion_mnist_dirichlet", "--help"], 0, "--attack-strength FLOAT"),
        (["run", "dp_correlated", "--help"], 0, "every arm is run with every seed"),
        (["plan", "digits_quickstart", "--help"], 0, "--alpha FLOAT"),
        (["plan", "dp_correlated"], 2, ""),
        (["run", "digits_quikstart"], 2, ""),
        (["compare", "--help"], 0, "--target"),
        (["audit", "--help"], 0, "Exit code"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_lists_import_no_heavy_library(arguments, code, says):
    found, printed, packages = look(*arguments)
    assert found == code
    assert says in printed
    assert packages & HEAVY == set()


def test_the_help_of_a_script_anywhere_is_read_from_its_source(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    code, printed, packages = look("run", script, "--help")
    assert code == 0
    assert "[fedavg|fedprox|" in printed
    assert "Of the sky." in printed
    assert packages & HEAVY == set()


def test_a_script_that_cannot_be_read_from_its_source_is_imported(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        SCRIPT + "\nCOLOURS = ['red', 'blue']\n\n\n"
        "def study(*, colour: str = max(COLOURS)):\n    '''A study.'''\n"
    )
    code, printed, packages = look("run", script, "--help")
    assert code == 0
    assert "[default: red]" in printed
    assert "torch" in packages
