"""Memory of this machine, as measured and as planned."""

import json
import subprocess
import sys

import pytest
import torch

from fedsim.core.machine import keep_memory, peak_memory


def test_peak_memory_of_another_process_is_read_and_is_0_once_it_has_ended():
    code = (
        "import sys; held = bytearray(64 << 20); sys.stdout.write('x'); sys.stdout.flush(); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.read(1)
        if sys.platform.startswith("linux"):
            assert 64 << 20 <= peak_memory(other.pid) < 200 << 20
        other.communicate(b"\n")
    assert peak_memory(other.pid) == 0
    assert peak_memory() > 64 << 20


def test_keeping_freed_memory_changes_no_result():
    before = torch.arange(1 << 20).sum()
    keep_memory()
    assert torch.arange(1 << 20).sum() == before


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("scenario", ["digits_quickstart", "fashion_mnist_dirichlet"])
def test_the_plan_predicts_the_runs_memory_within_a_quarter(tmp_path, scenario, workers, request):
    knobs = ["--rounds", "3", "--workers", workers]
    if scenario != "digits_quickstart":
        knobs += ["--data-dir", str(request.getfixturevalue("real_data"))]
    said = {}
    for verb, more in (("plan", []), ("run", ["--out", str(tmp_path / "run")])):
        command = [sys.executable, "-m", "fedsim", verb, scenario, *knobs, *more, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        said[verb] = json.loads(done.stdout)["memory_bytes"]
    assert said["plan"] == pytest.approx(said["run"], rel=0.25)
