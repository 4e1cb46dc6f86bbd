"""Files, functions and rooms stay small enough to be read, and no name means two types."""

import ast
from collections import Counter, defaultdict

import pytest

from tests.structure.sources import ROOT, modules

LONGEST_FILE = 300
LONGEST_FUNCTION = 60
BIGGEST_ROOM = 0.25


def functions() -> dict[str, int]:
    """The lines of every function, without its docstring."""
    found = {}
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                documented = len((ast.get_docstring(node, clean=False) or "").splitlines())
                found[f"{module.path}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1 - documented
    return found


def types() -> dict[str, set[str]]:
    """The files that define a type, by its name without a leading underscore."""
    found = defaultdict(set)
    for module in modules().values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                found[node.name.removeprefix("_")].add(module.path)
    return found


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "recipes"])
def test_files_are_short(folder: str) -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert lines
    assert {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    assert {name for name, lines in functions().items() if lines > LONGEST_FUNCTION} == set()


def test_no_room_is_a_quarter_of_the_house() -> None:
    lines = Counter[str]()
    for module in modules().values():
        lines[module.room] += module.lines
    room, most = lines.most_common(1)[0]
    assert most <= BIGGEST_ROOM * lines.total(), room


def test_a_type_name_means_one_type() -> None:
    assert {name for name, files in types().items() if len(files) > 1} == set()
