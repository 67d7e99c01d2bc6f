"""Knobs read from a source are those of the imported function."""

import importlib
from pathlib import Path

import pytest

from fedsim.runs.catalogue import find_script, script_names
from fedsim.runs.signature import argument_texts, read_signature, signature_of
from fedsim.runs.source import Unreadable, read_source

HEAD = """
from __future__ import annotations
from typing import Annotated, Literal, Optional
import typing as t
Colour = Literal["red", "blue"]
Depth = Annotated[int, "how deep"]
TEN = 10
"""
FIRST = """

    Args:
        a: the first
            of all.
    """


def source(tmp_path, parameters, doc=""):
    path = tmp_path / "mine.py"
    path.write_text(f'{HEAD}\ndef scenario({parameters}):\n    """Mine.{doc}"""\n')
    return path


@pytest.mark.parametrize("name", script_names())
def test_the_source_says_what_the_imported_function_says(name):
    script = find_script(name)
    folder = {"scenario": "scenarios", "study": "scenarios.studies"}[script.kind]
    module = importlib.import_module(f"{folder}.{name}")
    assert script.signature == read_signature(read_source(Path(module.__file__)), script.kind)
    assert script.signature == signature_of(getattr(module, script.kind))


@pytest.mark.parametrize("name", script_names())
def test_every_knob_has_a_help_text(name):
    assert [knob.name for knob in find_script(name).signature.knobs if not knob.text] == []


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        "*, a: int = 1, b: float = -1.5, c: str = 'x', d: bool = False, e='y'",
        "a: int = 1, /, b: float = 2.0, *, c: bool = True",
        "*, a: Colour = 'red', b: Colour | None = None, c: Literal['u', 'v'] = 'v'",
        "*, a: Depth = 3, b: Annotated[float | None, 'far'] = None, c: Optional[int] = None",
        "*, a: int = TEN, b: float = 1 / 3, c: int = 2 * TEN + 1, d: t.Optional[str] = None",
    ],
)
def test_types_defaults_and_texts_are_read_alike(tmp_path, parameters):
    path = source(tmp_path, parameters, FIRST)
    namespace = {}
    exec(path.read_text(), namespace)
    assert read_signature(read_source(path), "scenario") == signature_of(namespace["scenario"])


def test_a_text_in_the_docstring_goes_before_that_of_the_annotation(tmp_path):
    path = source(tmp_path, "*, a: Depth = 1, b: Depth = 1", FIRST)
    first, second = read_signature(read_source(path), "scenario").knobs
    assert (first.text, second.text) == ("The first of all.", "How deep.")


@pytest.mark.parametrize("parameters", ["*, a: list = ()", "*, a: int = max(1, 2)", "*, a: X = 1"])
def test_what_a_source_does_not_say_is_unreadable(tmp_path, parameters):
    with pytest.raises(Unreadable):
        read_signature(read_source(source(tmp_path, parameters)), "scenario")


def test_an_imported_function_is_followed_to_its_module(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from scenarios.digits_quickstart import scenario\n")
    ours = read_signature(read_source(path), "scenario")
    assert ours == find_script("digits_quickstart").signature


def test_help_texts_come_from_the_args_section():
    text = "D.\n\nArgs:\n    alpha: how far\n        they differ.\n    beta: more.\n\nRaises:\n"
    assert argument_texts(text) == {"alpha": "How far they differ.", "beta": "More."}


def test_public_functions_are_those_of_all_or_without_an_underscore(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("def a(): ...\ndef _b(): ...\nclass C: ...\n")
    assert list(read_source(path).public_functions()) == ["a"]
    path.write_text(path.read_text() + "__all__ = ['C', '_b']\n")
    assert list(read_source(path).public_functions()) == ["_b"]
