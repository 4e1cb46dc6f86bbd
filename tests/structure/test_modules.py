"""How modules hang together: no circles, imports only go down the rooms, private names stay in their module."""

import ast
import tomllib
from collections.abc import Iterator

from tests.structure.sources import ROOT, imported_modules, imports, modules

# Attributes of modules in torch, which some class of ours has, too.
OF_TORCH = {"_buffers", "_modules", "_parameters"}


def circles() -> list[set[str]]:
    """Modules that import each other, directly or through others (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in imported_modules(name) & modules().keys():
            if other not in order:
                visit(other)
            if other in stack:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == order[name]:
            start = stack.index(name)
            if len(stack) - start > 1 or name in imported_modules(name):
                found.append(set(stack[start:]))
            del stack[start:]

    for name in modules():
        if name not in order:
            visit(name)
    return found


def rooms() -> list[list[str]]:
    """The levels of import-linter's list in pyproject.toml, the highest first; rooms of a level are independent."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[room.strip(" ()") for room in level.split("|")] for level in layers]


def room_of(module: str) -> tuple[int, str] | None:
    """The level and the name of the innermost room that holds a module."""
    found = [
        (level, room)
        for level, names in enumerate(rooms())
        for room in names
        if module == room or module.startswith(f"{room}.")
    ]
    return max(found, key=lambda entry: len(entry[1]), default=None)


def private_uses() -> Iterator[str]:
    """Private names of other modules that a module imports, or reads from anything but itself."""
    defined = {name: set(private_definitions(module.tree)) for name, module in modules().items()}
    everywhere = set().union(*defined.values()) - OF_TORCH
    for name, module in modules().items():
        yield from (f"{name}: {each.module}.{each.name}" for each in imports(name) if is_private(each.name or ""))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr in everywhere - defined[name]:
                owner = ast.unparse(node.value)
                if owner not in {"self", "cls", "super()"}:
                    yield f"{name}: {owner}.{node.attr}"


def private_definitions(tree: ast.AST) -> Iterator[str]:
    """Private names that a module defines: functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.id if isinstance(node, ast.Name) else node.attr
        else:
            continue
        if is_private(name):
            yield name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def test_no_modules_import_each_other() -> None:
    assert circles() == []


def test_imports_only_go_down_the_rooms() -> None:
    top = {"flagai", "flagai.__main__"}
    placed = {name: room_of(name) for name in modules() if name not in top}
    homeless = {name for name, room in placed.items() if room is None}
    assert homeless <= {"flagai.data", "flagai.model"}, "give them a place in pyproject's list of rooms"
    upward = {
        f"{name} -> {other}"
        for name, room in placed.items()
        for other in imported_modules(name) & placed.keys()
        if room and (target := placed[other]) and target != room and target[0] <= room[0]
    }
    assert not upward


def test_plain_code_never_imports_kernels() -> None:
    kernels = {name for name in modules() if name.startswith("flagai.kernels")}
    assert {name for name in modules().keys() - kernels if imported_modules(name) & kernels} == set()


def test_private_names_stay_in_their_module() -> None:
    assert set(private_uses()) == set()
