"""The fields of a request's body: one table checks the body and describes it in the OpenAPI document."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flagai.serve.refusals import RequestError, unprocessable
from flagai.typed_json import shown

Schema = dict[str, Any]
REQUIRED: Any = ...
_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT, "minItems": 1}
_PAIR: Schema = {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}


def is_text(value: Any) -> bool:
    """Whether a value is a text."""
    return isinstance(value, str)


def is_texts(value: Any) -> bool:
    """Whether a value is a list of texts, at least one."""
    return isinstance(value, list) and bool(value) and all(map(is_text, value))


def is_pair(value: Any) -> bool:
    """Whether a value is a pair of texts."""
    return is_texts(value) and len(value) == 2


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class _Kind:
    """A type of JSON values."""

    words: str
    holds: Callable[[Any], bool]
    schema: Schema


_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": _TEXT, "content": _TEXT},
    },
}


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


_KINDS: Mapping[str, _Kind] = {
    "text": _Kind("a text", is_text, _TEXT),
    "texts": _Kind("a list of texts, at least one", is_texts, _TEXTS),
    "text or texts": _Kind(
        "a text, or a list of texts, at least one", lambda v: is_text(v) or is_texts(v), {"anyOf": [_TEXT, _TEXTS]}
    ),
    "pairs": _Kind(
        "a list of pairs of texts, at least one",
        lambda v: isinstance(v, list) and bool(v) and all(map(is_pair, v)),
        {"type": "array", "items": _PAIR, "minItems": 1},
    ),
    "entries": _Kind(
        "a text, or a list, at least one entry, of texts, [text] or pairs [first, second]",
        lambda v: is_text(v) or (isinstance(v, list) and bool(v) and all(map(_is_entry, v))),
        {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": {"anyOf": [_TEXT, _TEXTS | {"maxItems": 2}]}, "minItems": 1},
            ]
        },
    ),
    "predict inputs": _Kind(
        "a text, a pair [first, second], or a list of [text] and pairs",
        lambda v: is_text(v) or is_pair(v) or (isinstance(v, list) and bool(v) and all(map(_is_row, v))),
        {"anyOf": [_TEXT, _PAIR, {"type": "array", "items": _TEXTS | {"maxItems": 2}, "minItems": 1}]},
    ),
    "messages": _Kind("a list of messages, at least one", _are_objects, _MESSAGES),
    "tools": _Kind(
        "a list of descriptions of tools",
        _are_objects,
        {"type": "array", "items": {"type": "object"}, "minItems": 1},
    ),
    "integer": _Kind("an integer", _is_integer, {"type": "integer"}),
    "number": _Kind("a number", _is_number, {"type": "number"}),
    "flag": _Kind("true or false", lambda value: isinstance(value, bool), {"type": "boolean"}),
    "stream options": _Kind(
        '{"include_usage": true or false}',
        lambda v: isinstance(v, dict) and set(v) <= {"include_usage"} and all(isinstance(x, bool) for x in v.values()),
        {"type": "object", "properties": {"include_usage": {"type": "boolean"}}, "additionalProperties": False},
    ),
    "object": _Kind("an object", lambda value: isinstance(value, dict), {"type": "object"}),
    "any": _Kind("a value", lambda _: True, {}),
}


def _is_row(value: Any) -> bool:
    return is_texts(value) and len(value) <= 2


def _is_entry(value: Any) -> bool:
    return is_text(value) or _is_row(value)


@dataclass(frozen=True)
class BodyField:
    """A field.

    Args:
        kind: its type, one of ``_KINDS``.
        doc: what it means.
        default: its value where the body has none, or null; REQUIRED if there is none.
        low: the least number.
        high: the greatest number.
        choices: the only values that it may have.
        most: the most entries of a list, or characters of a text.
        fields: those of an object.
    """

    kind: str
    doc: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    most: int | None = None
    fields: "Mapping[str, BodyField] | None" = None

    def read(self, name: str, value: Any) -> Any:
        """The value of a body's field.

        Raises:
            RequestError: it is missing, or of another type or range.
        """
        if value is None:
            if self.default is REQUIRED:
                raise unprocessable(name, f"it is required; expected {_KINDS[self.kind].words}.")
            return self.default if self.fields is None else read_body(self.fields, self.default, f"{name}.")
        if self.fields is not None:
            return read_body(self.fields, value, f"{name}.")
        if self.choices:
            # JSON's 0 is not false, and its 1 not true.
            if not any(value == each and isinstance(value, bool) is isinstance(each, bool) for each in self.choices):
                known = ", ".join(dict.fromkeys("null" if each is None else shown(each) for each in self.choices))
                raise unprocessable(name, f"{shown(value)} is not supported; expected {known}.")
            return value
        kind = _KINDS[self.kind]
        if not kind.holds(value):
            raise unprocessable(name, f"{shown(value)} is not {kind.words}.")
        self._check_range(name, value)
        return value

    def _check_range(self, name: str, value: Any) -> None:
        if self.most is not None and isinstance(value, list | str) and len(value) > self.most:
            raise unprocessable(name, f"it has {len(value)} entries; expected at most {self.most}. Send several calls.")
        too_low = self.low is not None and value < self.low
        if too_low or (self.high is not None and value > self.high):
            bounds = f"at least {self.low:g}" if self.high is None else f"from {self.low:g} to {self.high:g}"
            raise unprocessable(name, f"{shown(value)} is out of range; expected {bounds}.")

    def schema(self) -> Schema:
        """What the OpenAPI document says."""
        if self.fields is not None:
            return body_schema(self.fields) | {"description": self.doc}
        found: Schema = {"enum": list(self.choices)} if self.choices else dict(_KINDS[self.kind].schema)
        found |= {} if self.low is None else {"minimum": self.low}
        found |= {} if self.high is None else {"maximum": self.high}
        if self.most is not None and found.get("type") == "array":
            found["maxItems"] = self.most
        if self.default is not REQUIRED:
            found = {"anyOf": [found, {"type": "null"}]} if found and None not in self.choices else found
            found |= {} if self.default is None else {"default": self.default}
        return found | {"description": self.doc}


Body = Mapping[str, BodyField]


def read_body(table: Body, content: Any, prefix: str = "") -> dict[str, Any]:
    """The values of all fields of a table, those that a body lacks by default.

    Args:
        table: the fields.
        content: the body, or an object in it.
        prefix: what stands before the names of fields, for errors.

    Raises:
        RequestError: the body is not an object, has another field, or one of another type or range.
    """
    if not isinstance(content, dict):
        words = f"{prefix.rstrip('.') or 'The body'} is a JSON {type(content).__name__}; expected an object."
        raise RequestError(422, words, field=prefix.rstrip(".") or None)
    for name in content:
        if name not in table:
            near = difflib.get_close_matches(name, table, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = f"Known: {', '.join(table)}." if table else "There is none."
            raise unprocessable(f"{prefix}{shown(name)[1:-1]}", f"there is no such field.{hint} {known}")
    return {name: field.read(f"{prefix}{name}", content.get(name)) for name, field in table.items()}


def body_schema(table: Body) -> Schema:
    """The JSON schema of a body."""
    required = [name for name, field in table.items() if field.default is REQUIRED]
    properties = {name: field.schema() for name, field in table.items()}
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return found | ({"required": required} if required else {})
