"""Progress in a notebook: a line under the cell that moves. In a terminal it is the usual bar."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from fedsim.cli.console import Progress, describe_round
from fedsim.runs.callbacks import Callback
from fedsim.runs.folder import Metrics


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    return running is not None and "IPKernelApp" in running.config


@contextmanager
def show_progress(name: str, wanted: bool) -> Iterator[tuple[Callback, ...]]:
    """Callbacks that show how a run goes on, in a terminal or a notebook; none if not wanted."""
    if not wanted:
        yield ()
    elif in_notebook():
        yield (notebook_progress(name),)
    else:
        with Progress(name) as progress:
            yield (progress.callback,)


def notebook_progress(name: str) -> Callback:
    """A line of HTML that is updated after each round."""
    display: Any = import_module("IPython.display")  # untyped, and only there in a notebook

    began, total = time.monotonic(), 0
    shown: Any = None

    def draw(done: int, text: str) -> None:
        bar = f'<progress value="{done}" max="{total}" style="width: 20em"></progress>'
        seconds = time.monotonic() - began
        line = (
            f"<b>{html.escape(name)}</b> {bar} {done}/{total} {html.escape(text)} {seconds:.0f} s"
        )
        shown.update(display.HTML(line))

    def run_started(rounds: int, done: int, folder: Path) -> None:
        nonlocal shown, total
        total, shown = rounds, display.display(display.HTML(""), display_id=True)
        draw(done, f"results in {folder}")

    def round_done(row: Metrics) -> None:
        draw(row["round"], describe_round(row))

    return Callback(run_started=run_started, round_done=round_done)
