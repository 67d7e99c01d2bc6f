"""One scenario on three runtimes: our grid, Flower's simulation engine, SuperLink and SuperNodes.

These start Flower's servers on the loopback interface with a home folder of their own, and stop
them by process id.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedsim.cli import main
from fedsim.flower.grid import CohortGrid, in_process, server_context
from fedsim.runs.folder import read_metrics

REPOSITORY = Path(__file__).parents[2]
SCENARIO = "digits_quickstart"
WORLD = "--population 5 --cohort 3 --local-epochs 2 --seed 3"  # each message is a new process
KNOBS = {
    "fedavg": f"--rounds 2 {WORLD}",
    # client state on the nodes; a server that asks every client for a loss
    "curricula": f"--rounds 3 {WORLD} --strategy scaffold --order curriculum "
    "--selection curriculum",
}
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.slow


def free_ports(count):
    """Ports that are not in use."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Flower:
    """A SuperLink on loopback with its own home, and the processes that belong to it."""

    def __init__(self, folder, *, simulation):
        self.port, *self.node_ports = free_ports(3)
        self.folder = folder
        home = folder / "flower"
        home.mkdir()
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "test"\n\n'
            f'[superlink.test]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        self.environment = {
            **os.environ,
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        self.processes = []
        kind = ["--simulation"] if simulation else []
        self.launch(
            "flower-superlink",
            "--insecure",
            "--disable-runtime-dependency-installation",
            "--port",
            str(self.port),
            *kind,
        )
        self.wait_for(self.port)
        if not simulation:
            for number, port in enumerate(self.node_ports):
                self.launch(
                    "flower-supernode",
                    "--insecure",
                    "--superlink",
                    f"127.0.0.1:{self.port}",
                    "--port",
                    str(port),
                    "--node-config",
                    f"partition-id={number} num-partitions=2",
                )

    def launch(self, *command):
        log = self.folder / f"{command[0]}-{len(self.processes)}.log"
        with log.open("w") as stream:
            # A session of its own, so that its children can be stopped with it.
            self.processes.append(
                subprocess.Popen(
                    [str(BIN / command[0]), *command[1:]],
                    env=self.environment,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                )
            )

    def wait_for(self, port):
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise TimeoutError(f"nothing listens: {self.logs()}")

    def run(self, app, wanted, **config):
        """`flwr run` an app until it has written `wanted` (its exit code says nothing)."""
        given = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        command = [BIN / "flwr", "run", app, "test", "--stream", "--run-config", given]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert wanted.exists(), f"{done.stdout}\n{done.stderr}\n{self.logs()}"

    def logs(self):
        return "\n".join(log.read_text()[-3000:] for log in self.folder.glob("*.log"))

    def stop(self):
        for process in reversed(self.processes):
            for name in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, name)
                    process.wait(timeout=10)
                except ProcessLookupError:
                    break
                except subprocess.TimeoutExpired:
                    continue


@contextmanager
def flower(folder, *, simulation):
    folder.mkdir()
    servers = Flower(folder, simulation=simulation)
    try:
        yield servers
    finally:
        servers.stop()


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The repository as `flwr run .` sees it, without what other tests leave in it."""
    copy = tmp_path_factory.mktemp("app") / "fedsim"
    copy.mkdir()
    for name in ("fedsim", "strategies", "privacy", "scenarios"):
        shutil.copytree(REPOSITORY / name, copy / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The scenario on our grid, with each set of knobs."""
    found = {}
    for name, knobs in KNOBS.items():
        out = tmp_path_factory.mktemp("here") / name
        assert main(["run", SCENARIO, *knobs.split(), "--out", str(out)]) == 0
        found[name] = read_metrics(out)
    return found


def assert_same_losses(first, second):
    assert [row["round"] for row in first] == [row["round"] for row in second]
    for key in ("train_loss", "test_loss", "test_accuracy", "bytes_down", "bytes_up"):
        values = [[row.get(key) for row in rows if key in row] for rows in (first, second)]
        np.testing.assert_allclose(*values, atol=1e-4)


def test_flowers_simulation_engine_runs_our_app_and_a_third_partys_as_our_grid_does(
    app, here, tmp_path, monkeypatch
):
    with flower(tmp_path / "engine", simulation=True) as engine:
        for name, knobs in KNOBS.items():
            out = tmp_path / name
            engine.run(app, out / "summary.json", scenario=SCENARIO, knobs=knobs, out=str(out))
            assert_same_losses(here[name], read_metrics(out))

        third_party = tmp_path / "third_party"
        shutil.copytree(REPOSITORY / "tests" / "helpers" / "third_party_app", third_party)
        theirs = tmp_path / "theirs.json"
        engine.run(third_party, theirs, result=str(theirs), rounds=3)

    monkeypatch.syspath_prepend(str(third_party))
    from quadratic import app as quadratic

    ours = tmp_path / "ours.json"
    config = {"rounds": 3, "result": str(ours)}
    with in_process():
        grid = CohortGrid(quadratic.client, num_nodes=2, run_config=config)
        quadratic.server(grid, server_context(config))
    found, expected = (json.loads(path.read_text()) for path in (ours, theirs))
    np.testing.assert_allclose(found["x"], expected["x"], rtol=1e-12)
    assert found["metrics"] == [pytest.approx(row) for row in expected["metrics"]]


def test_a_superlink_with_two_supernodes_runs_our_app_as_our_grid_does(app, here, tmp_path):
    with flower(tmp_path / "deployment", simulation=False) as deployment:
        for name, knobs in KNOBS.items():
            out = tmp_path / name
            deployment.run(app, out / "summary.json", scenario=SCENARIO, knobs=knobs, out=str(out))
            assert_same_losses(here[name], read_metrics(out))
