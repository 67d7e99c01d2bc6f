"""The direction of imports: packages in layers, no cycle, no module outside them.

Every import counts: at the top of a file, within a function, and for annotations only.
"""

import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).parents[2]
TOP = ("fedsim", "fedsim.__main__", "fedsim.cli", "fedsim.studies", "fedsim.testing")
LAYERS = (  # an import goes down; rooms of the first layer may import each other
    TOP,
    ("fedsim.runs",),
    ("fedsim.flower",),
    ("fedsim.server",),
    ("fedsim.training", "fedsim.canaries"),
    ("fedsim.models",),
    ("fedsim.world", "fedsim.data"),
    ("fedsim.core",),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
CATALOGUES = ("strategies", "privacy", "scenarios")


@pytest.fixture(scope="module")
def graph():
    sys.path.insert(0, str(REPOSITORY))
    return grimp.build_graph("fedsim", *CATALOGUES, include_external_packages=True, cache_dir=None)


@pytest.fixture(scope="module")
def imports(graph):
    """Module -> the modules of this project that it imports."""
    own = {m for m in graph.modules if m.partition(".")[0] in ("fedsim", *CATALOGUES)}
    return {m: graph.find_modules_directly_imported_by(m) & own for m in own}


def room_of(module):
    package, *rest = module.split(".")
    return ".".join((package, *rest[:1])) if package == "fedsim" else package


def edges(imports):
    """(importing module, imported module), where their rooms differ."""
    return [
        (module, other)
        for module, others in imports.items()
        for other in sorted(others)
        if room_of(module) != room_of(other)
    ]


def is_cyclic(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_every_module_of_fedsim_is_in_a_layer(imports):
    rooms = {room_of(module) for module in imports if module.split(".")[0] == "fedsim"}
    assert rooms == LEVEL.keys()
    assert len(LAYERS) <= 8
    children = [path for path in (REPOSITORY / "fedsim").iterdir() if path.name[:2] != "__"]
    modules = [path for path in children if path.is_dir() or path.suffix == ".py"]
    assert len(modules) + 2 <= 14  # with __init__ and __main__


def test_an_import_goes_down_the_layers(imports):
    upward = [
        (module, other)
        for module, other in edges(imports)
        if {room_of(module), room_of(other)} <= LEVEL.keys()
        and not (room_of(module) in TOP and room_of(other) in TOP)
        and LEVEL[room_of(module)] >= LEVEL[room_of(other)]
    ]
    assert upward == []


def test_there_is_no_cycle_of_modules_nor_of_packages(imports):
    assert is_cyclic(imports) is None
    rooms = {room_of(module): set() for module in imports}
    for module, other in edges(imports):
        rooms[room_of(module)].add(room_of(other))
    assert is_cyclic(rooms) is None


def test_the_check_for_cycles_finds_one():
    assert is_cyclic({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None


def test_only_the_top_layer_knows_the_catalogues(imports):
    known = {
        (module, other)
        for module, other in edges(imports)
        if room_of(module) in LEVEL and room_of(other) in CATALOGUES
    }
    assert {room_of(module) for module, _ in known} <= set(TOP)


def test_strategies_and_privacy_import_neither_each_other_nor_scenarios(imports):
    allowed = {"strategies": set(), "privacy": set(), "scenarios": {"strategies", "privacy"}}
    wrong = [
        (module, other)
        for module, other in edges(imports)
        if room_of(module) in CATALOGUES
        and room_of(other) in CATALOGUES
        and room_of(other) not in allowed[room_of(module)]
    ]
    assert wrong == []


def test_catalogues_import_nothing_that_runs_them(imports):
    """Scenarios are scripts: run by themselves they call the command line, and some are studies."""
    allowed = {"scenarios": {"fedsim.cli", "fedsim.studies"}}
    wrong = [
        (module, other)
        for module, other in edges(imports)
        if room_of(module) in CATALOGUES
        and room_of(other) in {*TOP, "fedsim.flower"} - allowed.get(room_of(module), set())
    ]
    assert wrong == []


def test_only_the_flower_room_imports_flwr(graph):
    users = graph.find_modules_that_directly_import("flwr")
    assert users
    assert {room_of(module) for module in users} == {"fedsim.flower"}
