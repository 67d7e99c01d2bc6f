"""Fixtures that every test may use."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fedsim.flower.grid import in_process

torch.set_num_threads(1)  # on a busy machine threads wait for each other more than they work

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Tests leave nothing in the user's cache, and find nothing there."""
    os.environ["FEDSIM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def real_data() -> Path:
    """The folder of published data files; tests that need it are skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("the published data files are not beside this checkout")
    return REAL_DATA


@pytest.fixture
def flower_identity():
    """What Flower needs before it builds a Message."""
    with in_process():
        yield


@dataclass
class Watcher:
    """An observer that remembers."""

    rows: list

    def run_started(self, rounds, done, folder):
        self.done = done

    def round_done(self, metrics):
        self.rows.append(metrics)

    def run_done(self, result):
        self.result = result


@pytest.fixture
def watcher() -> Watcher:
    return Watcher([])


@pytest.fixture
def no_pictures(monkeypatch):
    """Runs draw nothing, which takes longer than a small run."""
    monkeypatch.setattr("fedsim.runs.runner.plots.draw_run", lambda *given: None)
