"""`fedsim list` as text: one line for each name, so that grep finds whole entries."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping

_NOTES = {
    "scenarios": "fedsim run NAME",
    "studies": "fedsim run NAME: several arms over several seeds",
}


def text_of(found: Mapping[str, Mapping[str, str]]) -> str:
    """The catalogue as text, folded only where a terminal has an edge."""
    name_width = max(len(name) for entries in found.values() for name in entries)
    indent = " " * (name_width + 3)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = []
    for kind, entries in found.items():
        title = kind.replace("_", " ")
        lines.append(f"{title} ({_NOTES[kind]})" if kind in _NOTES else title)
        for name, summary in entries.items():
            line = f" {name:<{name_width}}  {summary}"
            lines += textwrap.wrap(line, columns, subsequent_indent=indent) if columns else [line]
        lines.append("")
    lines.append("`fedsim run SCENARIO --help` shows the knobs of a scenario.")
    return "\n".join(lines)
