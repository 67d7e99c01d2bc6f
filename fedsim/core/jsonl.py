"""JSON Lines files with one object a line: append, read, and truncate to an earlier round."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

Row = dict[str, Any]


class JsonLines:
    """A JSON Lines file open for appending; the first line creates it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: TextIO | None = None

    def append(self, row: Row) -> None:
        """Add a line."""
        if self._stream is None:
            self._stream = self._path.open("a", encoding="utf-8")
        self._stream.write(to_json(row) + "\n")
        self._stream.flush()

    def rewind(self, round_num: int) -> list[Row]:
        """Remove the rows of all later rounds; gives the rows that are left."""
        kept = [row for row in read_lines(self._path) if row["round"] <= round_num]
        self.rewrite(kept)
        return kept

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Replace all lines by these."""
        self.close()
        text = "".join(to_json(row) + "\n" for row in rows)
        if text or self._path.exists():
            write_text(self._path, text)

    def sync(self) -> None:
        """Flush appended lines to the disk."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None


def read_lines(path: Path) -> list[Row]:
    """The rows of a file, none if it does not exist; an incomplete last line is left out."""
    rows: list[Row] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_objects(
    path: Path, broken: Callable[[int, str], Exception]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with their line numbers from 1; an incomplete last line is left out.

    Args:
        path: of the file.
        broken: (line number, what the line is not) -> the exception to raise.

    Raises:
        Exception: the one that `broken` gives, where a line is not a JSON object.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines) and not line.endswith("\n"):
                return
            raise broken(number, "JSON") from None
        if not isinstance(content, dict):
            raise broken(number, "an object")
        yield number, content


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically."""
    partial = path.with_suffix(path.suffix + ".tmp")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def to_json(value: object, indent: int | None = None) -> str:
    """JSON text; numbers that are not finite become null."""
    return json.dumps(to_plain(value), indent=indent, allow_nan=False)


def to_plain(value: Any) -> Any:
    """Plain lists and dicts for JSON; None for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
