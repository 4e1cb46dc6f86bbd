"""JSON that others wrote is read as typed values, or refused with one of the library's errors."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flagai.errors import CheckpointError, ConfigError
from flagai.typed_json import Fields, parse_json, read_json, shown

BAD_TEXTS = {
    "nothing": b"",
    "half": b'{"a": ',
    "not UTF-8": b'{"a": "\xff"}',
    "NaN": b'{"a": NaN}',
    "infinite": b'{"a": 1e999}',
    "a number of 5,000 digits": b'{"a": ' + b"1" * 5000 + b"}",
    "a name twice": b'{"a": 1, "b": {"c": 1, "c": 2}}',
    "half a character": rb'{"a": "\ud800"}',
    "deep lists": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a": ' * 101 + b"1" + b"}" * 101,
    "a list": b"[1]",
    "a text": b'"a"',
}


@pytest.mark.parametrize("what", BAD_TEXTS)
def test_what_is_no_object_is_refused_with_the_name_of_the_file(tmp_path: Path, what: str):
    path = tmp_path / "config.json"
    path.write_bytes(BAD_TEXTS[what])
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        read_json(path, CheckpointError)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_a_byte_order_mark_and_whole_surrogate_pairs_are_accepted(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + rb'{"a": "\ud83d\ude00"}')
    assert read_json(path) == {"a": "😀"}


@pytest.mark.parametrize("name", ["absent.json", ".", "odd\0name", "x" * 300])
def test_what_cannot_be_opened_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json(tmp_path / name)


def test_a_file_above_the_limit_is_refused(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"a": "x" * 100}))
    with pytest.raises(ConfigError, match="larger than 50 bytes"):
        read_json(path, limit=50)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(value=VALUES)
def test_valid_json_comes_back_and_every_getter_gives_its_type_or_an_error(value: Any):
    table = parse_json(json.dumps({"name": value}), "here")
    assert table == {"name": value}
    fields = Fields(table, "here")
    kinds = {
        fields.integer: int,
        fields.number: float,
        fields.flag: bool,
        fields.text: str,
    }
    for getter, kind in kinds.items():
        try:
            found = getter("name", None)
        except ConfigError as error:
            assert "here, name: " in str(error)  # noqa: PT017
        else:
            assert found is None if value is None else type(found) is kind


@pytest.mark.parametrize(
    ("getter", "value", "right"),
    [
        ("integer", 24, 24),
        ("integer", 24.0, 24),
        ("integer", "24", 24),
        ("number", "1e-12", 1e-12),
        ("number", 1, 1.0),
        ("flag", 1, True),
        ("flag", False, False),
        ("text", "", ""),
        ("integer", None, "default"),
    ],
)
def test_spellings_of_a_value(getter: str, value: Any, right: Any):
    assert getattr(Fields({"a": value}, "here"), getter)("a", "default") == right


@pytest.mark.parametrize(
    ("getter", "value"),
    [
        ("integer", True),
        ("integer", 24.5),
        ("integer", "many"),
        ("integer", "1e999"),
        ("number", "nan"),
        ("number", []),
        ("number", 10**400),
        ("flag", "false"),
        ("flag", 2),
        ("text", 3),
    ],
)
def test_wrong_types_are_refused_with_place_field_and_value(getter: str, value: Any):
    with pytest.raises(ConfigError, match=r"here, a: .* is not"):
        getattr(Fields({"a": value}, "here"), getter)("a", None)


def test_lists_of_texts_and_objects():
    fields = Fields({"list": ["a"], "object": {"b": 1}, "null": None, "mixed": ["a", 1]}, "here")
    assert (fields.texts("list"), fields.mapping("object")) == (["a"], {"b": 1})
    assert (fields.texts("null"), fields.mapping("absent")) == ([], {})
    for getter, name in ((fields.texts, "mixed"), (fields.texts, "object"), (fields.mapping, "list")):
        with pytest.raises(ConfigError, match=f"here, {name}: "):
            getter(name)


@pytest.mark.parametrize("value", ["x" * 10**6, ["x" * 1000] * 1000, {"k" * 10**6: {"b": [[[1]]]}}, 10**400])
def test_messages_quote_no_megabytes(value: Any):
    assert len(shown(value)) <= 200
