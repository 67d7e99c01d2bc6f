"""House rules that a reader relies on, checked on every source file."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("fedsim", "strategies", "privacy", "scenarios")
FILES = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
PYTHON = [
    *FILES,
    *(
        p
        for d in ("tests", "examples", "benchmarks")
        for p in sorted((REPOSITORY / d).rglob("*.py"))
    ),
]
PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
LONGEST = 40


def code_lines(function, lines):
    """Lines of code of a function: no docstring, comments or blanks, nor functions within it."""
    left_out = set()
    if ast.get_docstring(function) is not None:
        left_out |= lines_of(function.body[0])
    for node in ast.walk(function):
        if node is not function and isinstance(node, ast.FunctionDef):
            left_out |= lines_of(node)
    body = set(range(function.body[0].lineno, function.end_lineno + 1)) - left_out
    code = (lines[number - 1].strip() for number in body)
    return sum(bool(line) and not line.startswith("#") for line in code)


def lines_of(node):
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return set(range(first, node.end_lineno + 1))


def test_a_function_has_at_most_40_lines_of_code_of_its_own():
    """A factory may be longer by the functions that it makes: each of them is counted by itself."""
    long = {}
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                length = code_lines(node, source.splitlines())
                if length > LONGEST:
                    long[f"{path.relative_to(REPOSITORY)}:{node.name}"] = length
    assert long == {}


def test_a_function_within_another_is_counted_by_itself():
    lines = [
        "def make():",
        "    # why",
        "    def inner():",
        "        return 1",
        "",
        "    return inner",
    ]
    assert code_lines(ast.parse("\n".join(lines)).body[0], lines) == 1


@pytest.mark.parametrize(
    "pattern",
    [
        r"#\s*fmt:\s*(skip|off)",
        r"(?i)\bspec(ification)? (section )?[0-9]+(\.[0-9]+)?",
    ],
)
def test_no_source_fights_the_formatter_or_cites_what_is_not_here(pattern):
    own = Path(__file__)
    guilty = [
        str(path.relative_to(REPOSITORY))
        for path in (*PYTHON, *PAGES)
        if path != own and re.search(pattern, path.read_text(encoding="utf-8"))
    ]
    assert guilty == []


def test_people_without_a_name_are_named():
    """Say which client, user, process or reader is meant. (A value of a field may be "nobody".)"""
    vague = re.compile(r"(?i)\b(whoever|nobody|somebody|anybody|everybody)\b")
    guilty = {}
    for path in (*FILES, *PAGES):
        text = path.read_text(encoding="utf-8").replace('"nobody"', "")
        for number, line in enumerate(text.splitlines(), start=1):
            if vague.search(line):
                guilty[f"{path.relative_to(REPOSITORY)}:{number}"] = line.strip()
    assert guilty == {}


OWN_ROOMS = {  # what these examples are about is behind the front door
    "flower_strategy.py": {"fedsim.flower", "fedsim.server", "fedsim.core"},
    "fedavg_by_hand.py": {"fedsim.testing"},
}


@pytest.mark.parametrize(
    "example", sorted((REPOSITORY / "examples").glob("*.py")), ids=lambda path: path.name
)
def test_an_example_uses_the_front_door_and_the_catalogues(example):
    """Of fedsim itself, besides the front door: datasets and models by name."""
    rooms = set()
    for node in ast.walk(ast.parse(example.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedsim."):
            rooms.add(".".join(node.module.split(".")[:2]))
    assert rooms <= {"fedsim.data", "fedsim.models"} | OWN_ROOMS.get(example.name, set())
