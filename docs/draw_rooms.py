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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPOSITORY = Path(__file__).parents[1]
IMAGES = REPOSITORY / "docs" / "images"
PACKAGES = ("fedsim", "strategies", "privacy", "scenarios")
LAYERS = [  # from the top; an import may only go down, or sideways in the first layer of fedsim
    ["scenarios"],
    ["testing", "front door", "cli", "studies"],
    ["runs"],
    ["flower"],
    ["server"],
    ["training", "canaries"],
    ["models"],
    ["world", "data"],
    ["core"],
]
BESIDE = {"strategies": (-4.4, -4.0), "privacy": (4.4, -4.0)}  # x, y
WIDE, HIGH = 0.75, 0.2  # half the size of a box


def room_of(module: str) -> str:
    """The package that a module belongs to; within fedsim, the sub-package."""
    package, _, rest = module.partition(".")
    if package != "fedsim":
        return package
    room = rest.partition(".")[0]
    return {"": "front door", "__main__": "cli"}.get(room, room)


def read_code() -> dict[str, dict[str, Any]]:
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
    """The imports that do not follow from others: A -> C is left out where A -> B -> C.

    Those among the top-level packages are always shown.
    """

    def reaches(start: str, end: str, seen: set[str]) -> bool:
        seen.add(start)
        return any(
            room == end or (room not in seen and reaches(room, end, seen))
            for room in imports[start]
        )

    def follows(room: str, other: str) -> bool:
        betweens = [between for between in imports[room] if between != other]
        return any(reaches(between, other, {room}) for between in betweens)

    return [
        (room, other)
        for room in imports
        for other in imports[room]
        if {room, other} <= set(PACKAGES) or not follows(room, other)
    ]


def draw(rooms: dict[str, dict[str, Any]], path: Path) -> None:
    """One box a room, one row a layer, one arrow an import that does not follow from others."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 7))
    place = dict(BESIDE)
    for row, layer in enumerate(LAYERS):
        if row % 2:
            axes.axhspan(-row - 0.5, -row + 0.5, color="0.95", zorder=0)
        for column, room in enumerate(layer):
            place[room] = (column - (len(layer) - 1) / 2) * 2.1, -row
    for room, at in place.items():
        number = rooms[room]["modules"]
        draw_box(axes, room, f"{number} file{'s' if number > 1 else ''}", at)
    imports = {room: list(content["imports"]) for room, content in rooms.items()}
    for room, other in shown(imports):
        corner = room in BESIDE or (room == "scenarios" and other in BESIDE)
        draw_arrow(axes, place[room], place[other], corner, down_first=room in BESIDE)
    axes.set_xlim(-5.3, 5.3)
    axes.set_ylim(-len(LAYERS) + 0.4, 0.5)
    axes.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_box(axes: Axes, room: str, size: str, at: tuple[float, float]) -> None:
    """A box with a room's name and its number of files."""
    from matplotlib.patches import FancyBboxPatch

    x, y = at
    shade = "0.85" if room in PACKAGES else "white"
    box = FancyBboxPatch((x - WIDE, y - HIGH), 2 * WIDE, 2 * HIGH, boxstyle="round,pad=0.03")
    box.set(facecolor=shade, edgecolor="0.2", zorder=3)
    axes.add_patch(box)
    axes.text(x, y + 0.03, room, ha="center", va="center", fontsize=11, zorder=4)
    axes.text(x, y - 0.2, size, ha="center", va="bottom", fontsize=7, color="0.3", zorder=4)


def draw_arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    corner: bool,
    down_first: bool,
) -> None:
    """An arrow between two boxes: straight, or with a right angle for the boxes at the sides."""
    (x, y), (end_x, end_y) = start, end
    side = (WIDE + 0.04) * (1 if end_x > x else -1)
    bottom, top = (x, y - HIGH - 0.04), (end_x, end_y + HIGH + 0.04)
    style = {"arrowstyle": "-|>", "color": "0.25", "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    if y == end_y:
        begin, finish = (x + side, y), (end_x - side, end_y)
    elif corner and down_first:
        begin, finish = bottom, (end_x - side, end_y)
        style["connectionstyle"] = "angle,angleA=90,angleB=0,rad=4"
    elif corner:
        begin, finish = (x + side, y), top
        style["connectionstyle"] = "angle,angleA=0,angleB=90,rad=4"
    else:
        begin, finish = bottom, top
    axes.annotate("", xy=finish, xytext=begin, arrowprops=style, zorder=2)


if __name__ == "__main__":
    found = read_code()
    (IMAGES / "rooms.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, IMAGES / "rooms.png")
