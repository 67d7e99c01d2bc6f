"""docs/architecture.md says what the code does: the packages, and the way to a gradient step."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "architecture.md"
TRACE = """
import inspect
import sys

import flwr.serverapp, matplotlib.pyplot, sklearn.datasets, torch  # following their imports is slow

from fedsim.cli import main

entered = {}


def note(frame, event, argument):
    if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # no module, no class
        entered.setdefault(f"{frame.f_code.co_filename} {frame.f_code.co_name}")


sys.setprofile(note)
code = main(sys.argv[1:])
sys.setprofile(None)
print("\\n".join(entered))
sys.exit(code)
"""


def listed_files():
    """The (file, function) of the numbered list, in the page's order."""
    return re.findall(r"^\d+\. \[`([^`]+)`\]\([^)]+\) `(\w+)`", PAGE.read_text(), re.MULTILINE)


def test_the_way_to_a_gradient_step_is_at_most_twelve_files():
    files = [file for file, _ in listed_files()]
    assert len(set(files)) == len(files)
    assert 8 <= len(files) <= 12


@pytest.mark.slow
def test_the_files_are_entered_in_the_order_of_the_page(tmp_path):
    command = ["run", "digits_quickstart", "--rounds", "1", "--cohort", "2", "--workers", "1"]
    out = ["--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", TRACE, *command, "--width", "2", *out],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env=os.environ | {"FLWR_TELEMETRY_ENABLED": "0"},
    )
    entered = done.stdout.splitlines()
    places = [entered.index(f"{REPOSITORY / file} {name}") for file, name in listed_files()]
    assert places == sorted(places)


def test_the_picture_of_the_packages_is_that_of_the_code():
    spec = importlib.util.spec_from_file_location("draw", REPOSITORY / "docs" / "draw_rooms.py")
    draw_rooms = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw_rooms)
    drawn = json.loads((REPOSITORY / "docs" / "images" / "rooms.json").read_text())
    found = draw_rooms.read_code()
    assert {room: entry["imports"] for room, entry in drawn.items()} == {
        room: entry["imports"] for room, entry in found.items()
    }, "run python docs/draw_rooms.py"
