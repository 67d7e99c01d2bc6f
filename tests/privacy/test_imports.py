"""What importing a part of `privacy` loads."""

import subprocess
import sys
from pathlib import Path

import pytest

import privacy

REPOSITORY = Path(__file__).parents[2]


def modules_after(statement):
    """The names of all modules that are loaded in a fresh interpreter after a statement."""
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["privacy", "privacy.conformance", "privacy.validate"])
def test_importing_it_loads_neither_torch_nor_scipy(module):
    assert not modules_after(f"import {module}") & {"torch", "scipy", "opacus", "flwr"}


def test_every_mechanism_of_the_package_can_be_imported_from_it():
    loaded = modules_after(f"from privacy import {', '.join(privacy.__all__)}")
    assert "privacy.mechanisms.correlated_client_dp" in loaded
    assert dir(privacy) == sorted(privacy.__all__)


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'privacy' has no attribute 'dp_sdg'"):
        _ = privacy.dp_sdg
