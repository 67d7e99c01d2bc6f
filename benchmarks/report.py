"""From seconds to a table: medians, ratios within a repeat, and whether the work was the same.

Seconds alone say more about the machine and the hour than about a contender. So contenders take
turns within each repeat, a ratio is taken inside a repeat, and its median over repeats is reported.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.machine_load import IDLE
from benchmarks.workloads import Workload

SAME = 1e-4  # relative difference below which two contenders did the same work
_REFERENCE = ("floor-1", "opacus-hooks-1")  # the first that ran is the reference for the others


@dataclass(kw_only=True)
class Row:
    """One contender on one workload. note: why it has no seconds, or what went wrong.

    runs: of each repeat, what the contender's process printed.
    """

    contender: Contender
    runs: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""
    failed: bool = False

    @property
    def seconds(self) -> list[float]:
        """Seconds a round, of each repeat."""
        return [statistics.fmean(run["seconds"]) for run in self.runs]


def table(workload: Workload, rows: list[Row]) -> tuple[str, dict[str, Any]]:
    """A workload's rows as text, and the same as what goes into the JSON file."""
    measured = {row.contender.name: row for row in rows if row.runs}
    base = next((measured[name] for name in _REFERENCE if name in measured), None)
    against = f"/ {base.contender.name}" if base else "/ floor"
    lines = [
        f"\n{workload.name}  {workload.text}",
        f"  {'contender':<16}{'s/round':>10}{'spread':>18}{against:>18}{'/ ours':>9}  same work",
    ]
    records = []
    for row in rows:
        name = row.contender.name
        record: dict[str, Any] = {"contender": name, "note": row.note, "runs": row.runs}
        records.append(record)
        if not row.runs:
            lines.append(f"  {name:<16}{row.note}")
            continue
        to_base = _ratio(row, base)
        ours = measured.get(f"ours-{row.contender.processes}")
        to_ours = _ratio(row, ours)
        same = _same(workload, row, base)
        seconds = row.seconds
        spread = f"{min(seconds):.3g} - {max(seconds):.3g}"
        median = statistics.median(seconds)
        record |= {"median": median, "to_base": to_base, "to_ours": to_ours, "same_work": same}
        lines.append(
            f"  {name:<16}{median:>10.4f}{spread:>18}{_shown(to_base):>18}{_shown(to_ours):>9}"
            f"  {same} {row.note}".rstrip()
        )
    shares = [run["busy"] for row in rows for run in row.runs if run["busy"] is not None]
    if shares and max(shares) > IDLE:
        median = statistics.median(shares)
        lines.append(
            f"  NOT IDLE: before its runs others used {median:.0%} of the machine (median), up to "
            f"{max(shares):.0%};\n  two processes look slower than they are (see --wait)"
        )
    return "\n".join(lines), {
        "workload": workload.name,
        "text": workload.text,
        "timed_rounds": workload.rounds,
        "base": base.contender.name if base else None,
        "contenders": records,
    }


def _ratio(row: Row, other: Row | None) -> float | None:
    """The median over repeats of this row's seconds to another's."""
    if other is None:
        return None
    pairs = zip(row.seconds, other.seconds, strict=False)
    return statistics.median(own / its for own, its in pairs)


def _shown(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _same(workload: Workload, row: Row, base: Row | None) -> str:
    """Whether the parameters went as far, and to the same loss, as those of the reference."""
    if workload.random or base is None:
        return "-"
    worst = max(abs(row.runs[-1][key] / base.runs[-1][key] - 1) for key in ("moved", "loss"))
    return "yes" if worst <= SAME else f"NO ({worst:.1e})"
