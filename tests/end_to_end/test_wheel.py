"""The wheel that `pip install .` makes: what is in it, and that it works away from the checkout."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PACKAGES = ("fedsim", "privacy", "scenarios", "strategies")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    subprocess.run([*build, REPOSITORY], check=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the content of the wheel, as in site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_python(installed, folder, *arguments):
    """Run Python in `folder` with the wheel's packages and none of the checkout's."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_it_is_named_for_the_distribution_and_its_version(wheel, installed):
    stem = f"{PROJECT['name'].replace('-', '_')}-{PROJECT['version']}"
    assert wheel.name == f"{stem}-py3-none-any.whl"
    metadata = Parser().parsestr((installed / f"{stem}.dist-info" / "METADATA").read_text())
    assert (metadata["Name"], metadata["Version"]) == (PROJECT["name"], PROJECT["version"])


def test_it_holds_the_four_packages_whole_and_nothing_else(installed):
    found = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert found == set(PACKAGES)
    for package in PACKAGES:
        tracked = {
            path.relative_to(REPOSITORY)
            for path in (REPOSITORY / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        packed = {
            path.relative_to(installed)
            for path in (installed / package).rglob("*")
            if path.is_file()
        }
        assert packed == tracked
        assert Path(package, "py.typed") in packed


def test_it_runs_a_scenario_of_its_own_from_any_folder(installed, tmp_path):
    where = run_python(installed, tmp_path, "-c", "import scenarios; print(scenarios.__file__)")
    assert Path(where).is_relative_to(installed)
    run = ["-m", "fedsim", "run", "digits_quickstart", "--rounds", "1", "--out", "out"]
    run_python(installed, tmp_path, *run)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rounds"] == 1
