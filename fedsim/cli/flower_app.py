"""The two apps that `flwr run .` starts, on Flower's simulation engine or on SuperNodes.

The run config (pyproject.toml, `--run-config`) says what to run, in the words of `fedsim run`:

    scenario   a name from `fedsim list`
    knobs      its knobs and the common ones, as on the command line: "--rounds 2 --seed 3"
    out        the run folder; empty for runs/<scenario>-<time> where the ServerApp runs
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedsim.cli.console import Progress
from fedsim.cli.options import Common, command
from fedsim.core.errors import InputError
from fedsim.flower import Context, client, exchange
from fedsim.runs.catalogue import find_script
from fedsim.runs.description import default_folder, describe
from fedsim.runs.request import Request
from fedsim.runs.runner import record_run
from fedsim.server.setup import PreparedRun, prepare
from fedsim.server.transport import Exchange


def _parsed(scenario: str, knobs: str) -> tuple[Request, Common]:
    script = find_script(scenario)
    if script.kind != "scenario":
        raise InputError(
            f"app: scenario must be one scenario; got {scenario!r}, a study of several."
        )
    found: list[tuple[dict[str, Any], Common]] = []
    parse = command(script, lambda own, common: found.append((own, common)))
    parse.main(shlex.split(knobs), prog_name="flwr run", standalone_mode=False)
    own, common = found[0]
    return common.request(script, own), common


@lru_cache(maxsize=1)
def _opened(scenario: str, knobs: str) -> PreparedRun:
    asked, _ = _parsed(scenario, knobs)
    # A node trains one client at a time, in its own process: nothing to measure.
    return prepare(asked.scenario, replace(asked.settings, width=1, workers=1))


def _prepared(context: Context) -> PreparedRun:
    return _opened(str(context.run_config["scenario"]), str(context.run_config["knobs"]))


def _serve(context: Context, exchange_for: Callable[[PreparedRun], Exchange]) -> None:
    config = {key: str(value) for key, value in context.run_config.items()}
    asked, common = _parsed(config["scenario"], config["knobs"])
    prepared = _prepared(context)
    with Progress(config["scenario"]) as progress:
        record_run(
            prepared,
            describe(config["scenario"], asked.knobs, prepared, "flower"),
            exchange_for(prepared),
            (progress.callback,),
            out=Path(config["out"]) if config["out"] else default_folder(config["scenario"]),
            resume=common.resume,
        )


client_app = client.client_app(_prepared)
server_app = exchange.server_app(_serve)
