"""What a docstring must have: Args, Shape, Returns, Raises, Example where they apply, read from the syntax tree."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.structure.sources import SOURCE, Module

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)

# A first sentence that names the result is its description; after any other one, Returns says it.
_NAMES_THE_RESULT = re.compile(
    r"(The|Mean|A|An|All|Each|Every|Whether|How|What|Which|Where|As|One|Its|Texts?|Ids|Rows|Return|Yield|``\w)\b"
)
_NOTHING = ("None", "Self", "'Self'", "NoReturn")
# So many parameters may be named by the sentences; more have a list.
_IN_PROSE = 3
_SHAPE = re.compile(r"(?<!\w)\[[\w .+*/,()-]*\]|scalar|any shape")


@dataclass(frozen=True)
class Documented:
    """A public class or function.

    Args:
        name: dotted, with its module.
        node: its definition.
        lines: the text of its file.
    """

    name: str
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    lines: list[str]

    @property
    def docstring(self) -> str:
        """Its docstring without indentation."""
        return ast.get_docstring(self.node) or ""

    @property
    def decorators(self) -> set[str]:
        """The last names of its decorators."""
        return {re.split(r"[.(]", ast.unparse(each).partition("(")[0])[-1] for each in self.node.decorator_list}

    def section(self, name: str) -> str:
        """The text under a heading."""
        found = re.search(rf"^{name}:\n((?:(?:    .*)?\n?)*)", self.docstring + "\n", re.MULTILINE)
        return found[1] if found else ""

    def missing(self) -> Iterator[str]:
        """What the docstring lacks."""
        if "override" in self.decorators or "overload" in self.decorators:
            return
        if not self.docstring or "See the base class" in self.docstring:
            yield "a docstring"
            return
        parameters = self.parameters()
        for name in parameters:
            listed = re.search(rf"^    \**{name}:", self.section("Args"), re.MULTILINE)
            if not listed and (len(parameters) > _IN_PROSE or not self._mentions(name)):
                yield f"Args: {name}"
        if isinstance(self.node, ast.ClassDef):
            return
        hints = [argument.annotation for argument in _arguments(self.node)] + [self.node.returns]
        if any(re.search(r"\bTensor\b", ast.unparse(hint)) for hint in hints if hint) and not _SHAPE.search(
            self.docstring
        ):
            yield "Shape"
        returned = ast.unparse(self.node.returns) if self.node.returns else "None"
        described = (
            self.is_property or self.section("Returns") or self.section("Yields") or "->" in self.section("Shape")
        )
        if returned not in _NOTHING and not described and not _NAMES_THE_RESULT.match(self.docstring):
            yield "Returns"
        if not self.section("Raises") and any(_raises(self.node)):
            yield "Raises"

    def _mentions(self, name: str) -> bool:
        """Whether the text has a parameter's name, or the noun that it is."""
        nouns = "|".join(
            {name, name.replace("_", " "), name.removesuffix("s"), name.replace("config", "configuration")}
        )
        return bool(re.search(rf"\b(?:{nouns})(?:s|es|\'s)?\b", self.docstring, re.IGNORECASE))

    @property
    def is_property(self) -> bool:
        """Whether it is read like an attribute."""
        return bool({"property", "cached_property", "setter"} & self.decorators)

    def _is_described(self, field: ast.AnnAssign) -> bool:
        """Whether a field is not a parameter, or has its documentation in ``setting`` or in a comment."""
        text = ast.unparse(field)
        lines = self.lines[field.lineno - 2 : field.end_lineno]
        return (
            "ClassVar" in text
            or "init=False" in text
            or "setting(" in text
            or lines[0].lstrip().startswith("#")
            or "  # " in lines[-1]
        )

    def parameters(self) -> list[str]:
        """What the caller gives: parameters, or the fields of a dataclass."""
        if not isinstance(self.node, ast.ClassDef):
            names = [argument.arg for argument in _arguments(self.node)]
            return [name for name in names if not name.startswith("_") and name not in ("self", "cls")]
        if "dataclass" in self.decorators:
            fields = (
                each for each in self.node.body if isinstance(each, ast.AnnAssign) and not self._is_described(each)
            )
            names = (ast.unparse(each.target) for each in fields)
            return [name for name in names if not name.startswith("_")]
        if self.node.name.endswith("Model") or "For" in self.node.name:
            return []  # a model's only argument is its configuration
        created = [each for each in self.node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        return [
            argument.arg
            for each in created
            for argument in _arguments(each)
            if argument.arg != "self" and not argument.arg.startswith("_")
        ]


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    given = node.args
    return [*given.posonlyargs, *given.args, *given.kwonlyargs]


def _raises(node: ast.AST) -> Iterator[ast.Raise]:
    for child in ast.iter_child_nodes(node):
        if (
            isinstance(child, ast.Raise)
            and child.exc is not None
            and "NotImplementedError" not in ast.unparse(child.exc)
        ):
            yield child
        elif not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            yield from _raises(child)


def public_objects(module: Module) -> Iterator[Documented]:
    """The public classes and functions of a module, and the public methods of those classes."""
    lines = (SOURCE / module.path).read_text(encoding="utf-8").splitlines()
    for node in module.tree.body:
        if isinstance(node, _DEFINITIONS) and not node.name.startswith("_"):
            yield Documented(f"{module.name}.{node.name}", node, lines)
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, _FUNCTIONS) and not inner.name.startswith("_"):
                    yield Documented(f"{module.name}.{node.name}.{inner.name}", inner, lines)
