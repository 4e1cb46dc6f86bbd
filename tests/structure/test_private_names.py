"""Tests go through public names: a private one may change at any time, and a test that patches it proves little."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.structure.sources import ROOT, modules

# Their engine is being rebuilt, and its tests with it.
UNDER_WAY: set[str] = set()
# Attributes of torch's modules that the library sets, too.
OF_TORCH = {"_buffers", "_compiled_call_impl", "_modules", "_parameters"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and len(name) > 1


def defined_in(tree: ast.AST) -> Iterator[str]:
    """The private names that a module gives to functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        name = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        if name is not None and is_private(name):
            yield name


def used_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The names that a test imports, takes from an object that is not its own, or gives as a text to patch."""
    formatted = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in formatted:
            yield node.lineno, node.value.rpartition(".")[2]


def found_in(text: str, private: set[str]) -> list[tuple[int, str]]:
    return [(line, name) for line, name in used_in(ast.parse(text)) if name in private]


def sources() -> Iterator[ast.AST]:
    yield from (module.tree for module in modules().values())
    for folder in ("recipes", "benchmarks"):
        yield from (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / folder).rglob("*.py"))


def files() -> Iterator[Path]:
    folder = ROOT / "tests"
    yield from (path for path in folder.rglob("*.py") if path.relative_to(folder).parts[0] not in UNDER_WAY)


def test_tests_use_no_private_names() -> None:
    private = {name for tree in sources() for name in defined_in(tree)} - OF_TORCH
    found = {str(path.relative_to(ROOT)): found_in(path.read_text(encoding="utf-8"), private) for path in files()}
    assert {path: names for path, names in found.items() if names} == {}


def test_every_way_to_a_private_name_is_found() -> None:
    ways = ("from flagai.hub.web import _a", "web._a = 1", "patch.setattr(web, '_a', 1)", "patch('flagai.hub.web._a')")
    text = "\n".join((*ways, "self._a", "f'{a}_a'"))
    assert [line for line, _ in found_in(text, set(defined_in(ast.parse("_a = 1"))))] == [1, 2, 3, 4]
