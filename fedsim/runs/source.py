"""Python modules read with `ast`, without importing them: docstrings, signatures, constants.

Importing a scenario imports torch, which takes seconds. Its source says as much as a help text or a
list needs. What cannot be worked out from the source raises `Unreadable`; the caller may then
import the module instead.
"""

from __future__ import annotations

import ast
import importlib.util
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

_BUILTINS: dict[str, Any] = {"bool": bool, "float": float, "int": int, "str": str}
_TYPING: dict[str, Any] = {
    "Annotated": Annotated,
    "Literal": Literal,
    "Optional": Optional,
    "Union": Union,
}
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class Unreadable(Exception):
    """The source alone does not say it."""


@dataclass(frozen=True)
class _Imported:
    """A name that another module defines; `name` is None where it is the module itself."""

    module: str
    name: str | None


@dataclass(frozen=True)
class SourceModule:
    """A module's source. Expressions are evaluated by what the module defines and imports."""

    tree: ast.Module

    @property
    def doc(self) -> str:
        """The module's docstring, or ''."""
        return ast.get_docstring(self.tree) or ""

    def defines(self, name: str) -> bool:
        """Whether the module has that name at its top level, by a definition or an import."""
        return name in self._names

    def function(self, name: str) -> tuple[SourceModule, ast.FunctionDef]:
        """A function, and the module that defines it; imports are followed.

        Raises:
            Unreadable: the name is no plain function: it is missing, assigned or decorated.
        """
        found = self._names.get(name)
        if isinstance(found, _Imported) and found.name is not None:
            return _find(found.module).function(found.name)
        if not isinstance(found, ast.FunctionDef) or found.decorator_list:
            raise Unreadable(name)
        return self, found

    def public_functions(self) -> Iterator[str]:
        """The functions of `__all__`; without one, those defined here without an underscore."""
        if self.defines("__all__"):
            for name in self.value("__all__"):
                try:
                    self.function(name)
                except Unreadable:  # a class or a constant
                    continue
                yield name
            return
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield node.name

    def value(self, name: str) -> Any:
        """A top-level constant or type alias.

        Raises:
            Unreadable: it is neither.
        """
        if name not in self._names:
            if name in _BUILTINS:
                return _BUILTINS[name]
            raise Unreadable(name)
        found = self._names[name]
        if isinstance(found, _Imported):
            return _imported(found)
        if isinstance(found, ast.FunctionDef):
            raise Unreadable(name)
        return self.evaluate(found)

    def evaluate(self, node: ast.expr) -> Any:
        """The value of a default or an annotation.

        Raises:
            Unreadable: it needs more than names, literals, arithmetic, and the types of `typing`.
        """
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self.value(name)
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute):
                return self._attribute(owner, attribute)
            case ast.Tuple(elts=items):
                return tuple(self.evaluate(item) for item in items)
            case ast.List(elts=items):
                return [self.evaluate(item) for item in items]
            case ast.Subscript(value=generic, slice=arguments):
                return self.evaluate(generic)[self.evaluate(arguments)]
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](self.evaluate(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](self.evaluate(left), self.evaluate(right))
        raise Unreadable(ast.unparse(node))

    def _attribute(self, owner: str, attribute: str) -> Any:
        found = self._names.get(owner)
        if not isinstance(found, _Imported):
            raise Unreadable(f"{owner}.{attribute}")
        if found.module == "typing" and found.name is None:
            return _imported(_Imported("typing", attribute))
        module = found.module if found.name is None else f"{found.module}.{found.name}"
        return _find(module).value(attribute)

    @cached_property
    def _names(self) -> dict[str, ast.expr | ast.FunctionDef | _Imported]:
        names: dict[str, ast.expr | ast.FunctionDef | _Imported] = {}
        for node in _statements(self.tree.body):
            match node:
                case ast.FunctionDef(name=name):
                    names[name] = node
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    names[name] = value
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    names[name] = value
                case ast.Import(names=aliases):
                    for alias in aliases:
                        names[alias.asname or alias.name] = _Imported(alias.name, None)
                case ast.ImportFrom(module=str(module), level=0, names=aliases):
                    for alias in aliases:
                        names[alias.asname or alias.name] = _Imported(module, alias.name)
        return names


def read_source(path: Path) -> SourceModule:
    """Read the module in that file.

    Raises:
        SyntaxError: the file is no Python.
        OSError: it cannot be read.
    """
    return _parsed(path.read_text(encoding="utf-8"))


def module_path(name: str) -> Path | None:
    """The file of a module, found without importing more than needed to look; None if none."""
    root, *parts = name.split(".")
    spec = importlib.util.find_spec(root)  # of a top-level name: imports nothing
    if spec is None:
        return None
    if not parts:
        return None if spec.origin is None else Path(spec.origin)
    for folder in spec.submodule_search_locations or ():
        inner = Path(folder).joinpath(*parts)
        for path in (inner.with_name(f"{inner.name}.py"), inner / "__init__.py"):
            if path.is_file():
                return path
    return None


@lru_cache(maxsize=256)
def _parsed(text: str) -> SourceModule:
    return SourceModule(ast.parse(text))


def _find(name: str) -> SourceModule:
    path = module_path(name)
    if path is None or path.suffix != ".py":
        raise Unreadable(name)
    return read_source(path)


def _imported(found: _Imported) -> Any:
    if found.module == "typing" and found.name in _TYPING:
        return _TYPING[found.name]
    if found.name is None:
        raise Unreadable(found.module)
    return _find(found.module).value(found.name)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, with those under an `if` such as TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements(node.body)
        else:
            yield node
