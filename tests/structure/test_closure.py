"""A layer or block is read with everything that it imports, and that stays short."""

import ast
from collections.abc import Iterator

import pytest

from tests.structure.sources import SOURCE, modules

LONGEST_CLOSURE = 1050
BRICKS = sorted(name for name, module in modules().items() if module.path.startswith(("model/layer/", "model/block/")))


def imported_at_the_top(tree: ast.AST) -> Iterator[str]:
    """The library's modules that a file imports when it is itself imported, but not for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (each for branch in node.orelse for each in imported_at_the_top(branch))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imported_at_the_top(node)


def closure(name: str) -> set[str]:
    """A module, what it imports, and so on; the packages around each are imported, too."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        parts = waiting.pop().split(".")
        for depth in range(len(parts)):
            module = ".".join(parts[: depth + 1])
            if module in modules() and module not in found:
                found.add(module)
                waiting.extend(imported_at_the_top(modules()[module].tree))
    return found


@pytest.mark.parametrize("name", BRICKS)
def test_a_brick_imports_little(name: str) -> None:
    lines = {module: modules()[module].lines for module in closure(name)}
    assert sum(lines.values()) <= LONGEST_CLOSURE, lines


def test_closures_contain_what_the_interpreter_imports() -> None:
    assert {"flagai", "flagai.lazy", "flagai.model.layer.sdpa", "flagai.errors"} <= closure(
        "flagai.model.layer.attention"
    )
    assert len(BRICKS) == sum(len([*(SOURCE / "model" / room).glob("*.py")]) for room in ("layer", "block"))
