"""A Jinja environment in which a template of a repository can reach, change and exhaust nothing."""

import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

# A context of a million tokens has some four million characters.
LONGEST_TEXT = 1 << 23
_MOST_WRITTEN = 1 << 26
_MOST_STEPS = 1_000_000  # calls, filters and turns of loops
_MOST_SECONDS = 10.0
# What chat templates use; others, such as `center`, make texts of any length.
_FILTERS = (
    *(
        "abs",
        "capitalize",
        "count",
        "d",
        "default",
        "dictsort",
        "e",
        "escape",
        "first",
        "float",
        "int",
        "items",
        "last",
    ),
    *(
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "reverse",
        "round",
        "safe",
        "select",
    ),
    *("selectattr", "sort", "string", "title", "trim", "unique", "upper"),
)
# Methods of texts that fill them up to any length.
_FILLING = frozenset(("center", "expandtabs", "format", "format_map", "join", "ljust", "rjust", "translate", "zfill"))
_REFUSED = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class _Generation(Extension):
    """``{% generation %}``, which marks an answer for training; its content counts."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Leave the block ``{% generation %}`` out and keep its body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one rendering: steps, seconds and lengths of texts are limited."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self._steps = self._written = 0
        self._end = time.monotonic() + _MOST_SECONDS
        own = {"tojson": _to_json, "join": self._join, "replace": self._replaced}
        usual = {name: self.filters[name] for name in _FILTERS}
        self.filters = {name: self._limited(function) for name, function in (usual | own).items()}
        self.filters |= {"counted": self._counted, "weighed": self._weighed, "written": self._write}
        self.globals = {"range": self._range, "namespace": self.globals["namespace"], "dict": dict}
        self.globals |= {"raise_exception": _raise, "strftime_now": _now}

    def guarded(self, source: str) -> nodes.Template:
        """A template whose loops count, and whose variables and texts are measured.

        Raises:
            TemplateError: it is not a template, or reads others.
        """
        tree = self.parse(source)
        refused = next(tree.find_all(_REFUSED), None)
        if refused is not None:
            raise SecurityError(f"it uses {type(refused).__name__.lower()}")
        for node in list(tree.find_all((nodes.For, nodes.Assign, nodes.With))):
            for field, name in (("iter", "counted"), ("node", "weighed")):
                if field in node.fields:
                    setattr(node, field, _filtered(getattr(node, field), name))
            if isinstance(node, nodes.With):
                node.values = [_filtered(each, "weighed") for each in node.values]
        for writing in list(tree.find_all(nodes.Output)) + list(tree.find_all(nodes.Concat)):
            writing.nodes = [_filtered(each, "written") for each in writing.nodes]
        return tree

    def call(self, __context: Context, __obj: Any, *arguments: Any, **named: Any) -> Any:
        """Call what is safe to call, and count the step."""
        self._step()
        self._weigh([arguments, named])
        if getattr(__obj, "__name__", "") == "replace" and isinstance(getattr(__obj, "__self__", None), str):
            return self._replaced(__obj.__self__, *arguments, **named)
        return self._weigh(super().call(__context, __obj, *arguments, **named))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operation whose result is not too large."""
        self._step()
        numbers = all(isinstance(value, int | float) for value in (left, right))
        if operator == "**" or (operator != "+" and not numbers):
            raise SecurityError(f"it uses {operator}")
        if operator == "*" and abs(left) * abs(right) > 1e15:
            raise SecurityError("it makes great numbers")
        return self._weigh(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may read an attribute: no internal one, and no method that pads text."""
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr in _FILLING)

    def wrap_str_format(self, value: Any) -> None:
        """Formatted texts may have any width, so that ``format`` is refused as other methods are."""

    # -- budgets ---------------------------------------------------------------------------------------------------

    def _step(self, count: int = 1) -> None:
        self._steps += count
        if self._steps > _MOST_STEPS or time.monotonic() > self._end:
            raise SecurityError(f"it takes more than {_MOST_STEPS:,} steps or {_MOST_SECONDS:.0f} seconds")

    def _weigh(self, value: Any) -> Any:
        """The value, if it is no longer than any text should be; a part that is in it twice counts twice."""
        left, parts = LONGEST_TEXT, [value]
        while parts:
            part = parts.pop()
            left -= len(part) + 1 if isinstance(part, str | bytes) else 1
            if left < 0:
                raise SecurityError(f"it makes a text or list longer than {LONGEST_TEXT:,}")
            if isinstance(part, list | tuple | set):
                parts.extend(part)
            elif isinstance(part, Mapping):
                parts.extend((*part, *part.values()))
        return value

    def _limited(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            self._step()
            return self._weigh(function(*arguments, **named))

        return run

    # Filters with a context are not computed ahead when a template is compiled.

    @pass_context
    def _counted(self, _context: Context, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    @pass_context
    def _weighed(self, _context: Context, value: Any) -> Any:
        self._step()
        return self._weigh(value)

    @pass_context
    def _write(self, _context: Context, value: Any) -> Any:
        self._step()
        text = str(self._weigh(value))
        self._written += len(text)
        if self._written > _MOST_WRITTEN:
            raise SecurityError(f"it writes more than {_MOST_WRITTEN:,} characters")
        return text

    # -- what templates may call -----------------------------------------------------------------------------------

    def _range(self, *bounds: int) -> range:
        found = range(*bounds)
        self._step(len(found))
        return found

    def _replaced(self, text: Any, old: Any, new: Any, count: int = -1) -> str:
        text, old, new = str(self._weigh(text)), str(old), str(new)
        if text.count(old) * len(new) > LONGEST_TEXT:
            raise SecurityError(f"it makes a text longer than {LONGEST_TEXT:,}")
        return text.replace(old, new, count)

    def _join(self, values: Iterable[Any], d: Any = "", attribute: str | None = None) -> str:
        rows = [value if attribute is None else self.getattr(value, attribute) for value in values]
        texts = [str(row) for row in self._weigh(rows)]
        if len(texts) * len(str(d)) > LONGEST_TEXT:
            raise SecurityError(f"it makes a text longer than {LONGEST_TEXT:,}")
        return str(d).join(texts)


def _filtered(node: nodes.Expr, name: str) -> nodes.Expr:
    plain = nodes.Const(node.data, lineno=node.lineno) if isinstance(node, nodes.TemplateData) else node
    return nodes.Filter(plain, name, [], [], None, None, lineno=node.lineno)


def _raise(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _now(form: str) -> str:
    return datetime.now().strftime(str(form)[:100])


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as transformers' templates write it: with every character as it is."""
    if indent is not None and not 0 <= int(indent) <= 16:
        raise SecurityError("it indents JSON too far")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
