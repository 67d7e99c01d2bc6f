"""Draw the packages of fedsim in their layers, with the imports between them, from the code.

Usage     python docs/draw_rooms.py
Writes    docs/images/rooms.png, and rooms.json beside it: what the picture shows, which
          tests/end_to_end/test_architecture.py compares with the code
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
IMAGES = REPOSITORY / "docs" / "images"
PACKAGES = ("fedsim", "strategies", "privacy", "scenarios")
LAYERS = [  # from the top; an import may only go down, or sideways in the first layer of fedsim
    ["scenarios"],
    ["front door", "cli", "studies", "testing"],
    ["runs"],
    ["flower"],
    ["server"],
    ["training", "canaries"],
    ["models"],
    ["world", "data"],
    ["core"],
]
BESIDE = {
    "strategies": (-4.0, -4.0),
    "privacy": (4.0, -4.0),
}  # x, y: they are used by scenarios alone


def room_of(module: str) -> str:
    """The package that a module belongs to; within fedsim, the sub-package."""
    package, _, rest = module.partition(".")
    if package != "fedsim":
        return package
    room = rest.partition(".")[0]
    return {"": "front door", "__main__": "cli"}.get(room, room)


def read_code() -> dict[str, dict[str, object]]:
    """For each room, how many modules it has and which rooms it imports (type-only too)."""
    import grimp

    sys.path.insert(0, str(REPOSITORY))
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    modules: dict[str, int] = defaultdict(int)
    imports: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        room = room_of(module)
        modules[room] += 1
        imports[room] |= {room_of(m) for m in graph.find_modules_directly_imported_by(module)}
    return {
        room: {"modules": modules[room], "imports": sorted(imports[room] - {room})}
        for room in sorted(modules)
    }


def shown(imports: dict[str, list[str]]) -> list[tuple[str, str]]:
    """The imports that do not follow from others: A -> C is left out where A -> B -> C."""

    def reaches(start: str, end: str, seen: set[str]) -> bool:
        seen.add(start)
        return any(
            room == end or (room not in seen and reaches(room, end, seen))
            for room in imports[start]
        )

    return [
        (room, other)
        for room in imports
        for other in imports[room]
        if not any(reaches(between, other, {room}) for between in imports[room] if between != other)
    ]


def draw(rooms: dict[str, dict[str, object]], path: Path) -> None:
    """One box a room, one row a layer, one arrow an import that does not follow from others."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import FancyBboxPatch

    figure, axes = pyplot.subplots(figsize=(8, 7.2))
    place = dict(BESIDE)
    for row, layer in enumerate(LAYERS):
        y = -row
        if row % 2:
            axes.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=0)
        for column, room in enumerate(layer):
            place[room] = (column - (len(layer) - 1) / 2) * 2.1, y
    for room, (x, y) in place.items():
        outside = room in PACKAGES
        axes.add_patch(
            FancyBboxPatch(
                (x - 0.75, y - 0.2),
                1.5,
                0.4,
                boxstyle="round,pad=0.03",
                facecolor="0.85" if outside else "white",
                edgecolor="0.2",
                zorder=3,
            )
        )
        axes.text(x, y + 0.02, room, ha="center", va="center", fontsize=11, zorder=4)
        axes.text(
            x,
            y - 0.2,
            f"{rooms[room]['modules']} files",
            ha="center",
            va="bottom",
            fontsize=6.5,
            color="0.3",
            zorder=4,
        )
    imports = {room: list(content["imports"]) for room, content in rooms.items()}  # type: ignore[call-overload]
    for room, other in shown(imports):
        (x, y), (end_x, end_y) = place[room], place[other]
        sideways = y == end_y
        sign = 1 if end_x > x else -1
        axes.annotate(
            "",
            xy=(end_x - 0.78 * sign, end_y) if sideways else (end_x, end_y + 0.23),
            xytext=(x + 0.78 * sign, y) if sideways else (x, y - 0.23),
            arrowprops={"arrowstyle": "-|>", "color": "0.25", "linewidth": 1, "shrinkA": 0},
            zorder=2,
        )
    axes.set_xlim(-5.2, 5.2)
    axes.set_ylim(-len(LAYERS) + 0.4, 0.5)
    axes.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    found = read_code()
    (IMAGES / "rooms.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, IMAGES / "rooms.png")
