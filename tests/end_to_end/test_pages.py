"""The documentation pages, the examples, and rules on source files that no linter checks."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.runs.folder import read_metrics

REPOSITORY = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("fedsim", "strategies", "privacy", "scenarios", "examples", "benchmarks")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(str(path.relative_to(REPOSITORY)) for path in sorted((REPOSITORY / "docs").rglob("*.md"))),
]


def read(page):
    return (REPOSITORY / page).read_text(encoding="utf-8")


def code_blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)


PYTHON_BLOCKS = [
    pytest.param(code, id=f"{page}-{number}")
    for page in PAGES
    for number, code in enumerate(code_blocks(page, "python"), start=1)
]
RUN_IN_ORDER = ("README", "docs/quickstart")  # by test_quickstarts.py, every block of them
SCENARIOS = [
    block
    for block in PYTHON_BLOCKS
    if "\ndef scenario(" in block.values[0] and not str(block.id).startswith(RUN_IN_ORDER)
]


# --- Python blocks --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", SCENARIOS)
def test_a_scenario_on_a_page_runs_with_every_knob_it_has(code, tmp_path, request):
    functions = (node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    arguments = next(function.args for function in functions if function.name == "scenario")
    defaults = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    knobs = {knob.arg: ast.literal_eval(default) for knob, default in defaults} | {"rounds": 2}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in knobs.items()]
    if "--data-dir" in code:
        words.append(f"--data-dir={request.getfixturevalue('real_data')}")
    script, folder = tmp_path / "mine.py", tmp_path / "run"
    script.write_text(code, encoding="utf-8")
    assert main(["run", str(script), *words, f"--out={folder}"]) == 0
    assert len(read_metrics(folder)) == 2


def test_there_are_scenarios_on_pages():
    assert len(SCENARIOS) >= 4


@pytest.mark.parametrize("code", PYTHON_BLOCKS)
def test_a_python_block_compiles_and_its_imports_exist(code):
    compile(code, "<block>", "exec")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert importlib.util.find_spec(alias.name), alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert is_importable(node.module, alias.name), f"{node.module}.{alias.name}"


def is_importable(package, name):
    found = importlib.import_module(package)
    return hasattr(found, name) or importlib.util.find_spec(f"{package}.{name}") is not None


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_scenarios_and_make_targets_that_exist(page):
    shell = "\n".join(code_blocks(page, "sh"))
    for name in re.findall(r"fedsim (?:run|plan|sweep) (\w+)(?!\S*\.py)\b", shell):
        assert any((REPOSITORY / "scenarios").rglob(f"{name}.py")), name
    for target in re.findall(r"^make (\w+)", shell, re.MULTILINE):
        assert re.search(rf"^{target}:", read("Makefile"), re.MULTILINE), target


# --- file names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    folders = "fedsim|strategies|privacy|scenarios|tests|examples|benchmarks|docs"
    named = re.findall(rf"(?<![\w/.])(?:{folders})(?:/\w+)+\.(?:py|md|png)\b", read(page))
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


# --- sources --------------------------------------------------------------------------------------


def test_source_files_have_at_most_300_lines():
    long = {str(path): n for path in SOURCES if (n := len(path.read_text().splitlines())) > 300}
    assert long == {}


def test_strategy_files_have_at_most_250_lines():
    sizes = {
        path.name: len(path.read_text().splitlines())
        for path in SOURCES
        if path.parent.name == "strategies"
    }
    assert {name: n for name, n in sizes.items() if n > 250} == {}


def test_no_source_file_names_a_path_of_one_machine():
    names = re.compile(r"(^|[^A-Za-z0-9_.])/(work|root|home|Users)/")
    assert [path for path in SOURCES if names.search(path.read_text())] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "example",
    [*sorted((REPOSITORY / "examples").glob("*.py")), REPOSITORY / "docs" / "draw_privacy.py"],
    ids=lambda path: path.name,
)
def test_every_example_runs(example):
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
