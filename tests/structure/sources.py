"""The library's modules as syntax trees: what each defines and imports, read without importing it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "flagai"
SOURCE = ROOT / "src" / PACKAGE


@dataclass(frozen=True)
class Module:
    """A file of the library.

    Args:
        name: dotted, such as ``flagai.hub.web``; a package has the name of its folder.
        path: relative to the package's folder.
        tree: the parsed text.
        lines: how many the file has.
    """

    name: str
    path: str
    tree: ast.Module
    lines: int

    @property
    def room(self) -> str:
        """The first folder, or the file itself where it lies at the top."""
        return self.path.partition("/")[0]


@dataclass(frozen=True)
class Import:
    """An imported name, and the module that it comes from."""

    module: str
    name: str | None


@cache
def modules() -> dict[str, Module]:
    """All modules, by their names."""
    return {module.name: module for module in map(_read, sorted(SOURCE.rglob("*.py")))}


def _read(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, path.relative_to(SOURCE).as_posix(), ast.parse(text), len(text.splitlines()))


@cache
def imports(name: str) -> frozenset[Import]:
    """What a module imports from the library, at the top and in functions, but not for type checkers only."""
    return frozenset(_imports(modules()[name].tree))


def _imports(tree: ast.AST) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield Import(submodule, None) if submodule in modules() else Import(node.module, alias.name)
        elif isinstance(node, ast.Import):
            yield from (Import(alias.name, None) for alias in node.names if _is_ours(alias.name))
        elif isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            yield from (each for branch in node.orelse for each in _imports(branch))
        else:
            yield from _imports(node)


def _is_ours(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def imported_modules(name: str) -> set[str]:
    """The modules of the library that a module imports."""
    return {each.module for each in imports(name)}
