"""How the API reference reads docstrings: the house's ``Example``, and fields that a comment describes."""

import ast
import re
from itertools import takewhile
from typing import Any

import griffe


class HouseStyle(griffe.Extension):
    """Makes of docstrings what griffe's Google style has sections for."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Let ``Example:`` be the section ``Examples:``, whose lines are code."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)

    def on_attribute_instance(self, *, attr: griffe.Attribute, node: Any, **kwargs: Any) -> None:
        """Take the comment behind or above a field of a class as its docstring."""
        if not isinstance(node, ast.AnnAssign) or attr.docstring or not isinstance(attr.parent, griffe.Class):
            return
        lines = attr.lines_collection[attr.filepath]
        last = (node.end_lineno or node.lineno) - 1
        _, found, text = lines[last].partition("  # ")
        if not found:
            above = takewhile(lambda line: line.strip().startswith("# "), reversed(lines[: node.lineno - 1]))
            text = " ".join(reversed([line.strip().removeprefix("# ") for line in above]))
        if text:
            text = f"{text[0].upper()}{text[1:]}".rstrip(".") + "."
            attr.docstring = griffe.Docstring(text, lineno=node.lineno, parent=attr)
