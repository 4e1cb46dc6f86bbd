"""Whatever a card holds, there is a card or this library's error, soon; and docs say where models can be had."""

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest

from flagai.auto_model.lookup import fine_tuned_name
from flagai.catalog.catalog import SHIPPED, find
from flagai.catalog.packages import find_model
from flagai.errors import FlagAIError, ModelNotFoundError
from flagai.hub.policy import Policy
from flagai.hub.request import DownloadRequest
from flagai.resolve import resolve

ODD: list[Any] = [
    None, True, -1, 0, 1, 10**30, 1.5, float("nan"), "", " ", "x", "../x", "/x", "a\0b", "\x1b[31m", "\u202e",
    "x" * 5_000,
    [], [""], [1], [[]], [{}], [{"name": 1}], [{"name": "x", "size": "y"}], [{"name": "x", "sha256": 7}], {}, {"a": {}},
    {"a": [1]}, {"sop": True}, {"pad": -1}, "hf:x", "file:x", "package:", "baai:", ["hf:a/b"], ["odd:thing"],
]  # fmt: skip


def toml(value: Any) -> str:
    """A value as TOML, which has no null."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return "nan" if value != value else "''" if value is None else json.dumps(value).replace("\\u007f", "\\u0080")


def mutated(table: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A card of which one value, at any depth, is odd or gone, or has a stranger beside."""
    copy: dict[str, Any] = json.loads(json.dumps(table))
    place = copy
    while True:
        name = draw.choice([*place, "stranger"])
        inner = place.get(name)
        if not isinstance(inner, dict) or not inner or draw.random() < 0.3:
            break
        place = inner
    if draw.random() < 0.1:
        place.pop(name, None)
    else:
        place[name] = draw.choice(ODD)
    return copy


@pytest.mark.parametrize("count", [150, pytest.param(5_000, marks=pytest.mark.slow)])
def test_cards_with_odd_values(tmp_path: Path, count: int) -> None:
    draw = random.Random(16)
    shipped = [
        (name, table)
        for path in sorted(SHIPPED.glob("*.toml"))
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items()
    ]
    refused = 0
    for _ in range(count):
        name, table = draw.choice(shipped)
        odd = mutated(table, draw)
        lines = [f"{json.dumps(key)} = {toml(value)}" for key, value in odd.items()]
        (tmp_path / "card.toml").write_text("\n".join([f"[{json.dumps(name)}]", *lines]), encoding="utf-8")
        said = ""
        try:
            card = find(name, cards=tmp_path)
            str(card.places()), card.available_from
            DownloadRequest(card, tmp_path, ("config",), card.sources, False, Policy()).advice()
        except FlagAIError as error:
            said = str(error)
        refused += bool(said)
        assert len(said) < 5_000
        assert "\x1b" not in said
    assert count // 4 < refused < count


def test_cards_say_where_a_model_can_be_had() -> None:
    assert find("GLM-mini-ch").available_from == "ships with flagai"
    assert find("GLM-Base").available_from == "by hand"
    assert find("RoBERTa-base-ch-ner").available_from == "BAAI hub only, not seen to answer"
    assert find("GLM-large-ch").available_from == "Hugging Face, ModelScope"
    assert not find("GLM-Base").online


def test_a_model_that_no_source_is_known_to_have_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="Available from: BAAI hub only, not seen to answer"):
        find_model("RoBERTa-base-ch-ner", tmp_path)
    with pytest.raises(FlagAIError, match=r"Its source: BAAI hub only, not seen to answer"):
        resolve(tmp_path, "RoBERTa-base-ch-ner")


@pytest.mark.parametrize(
    ("asked", "folder"),
    [
        ("GLM-large-ch", "glm-LARGE-ch"),
        ("glm-large-CH", "GLM-Large-Ch"),
        ("THUDM/glm-large-chinese", "glm-large-CHINESE"),
        ("My-Own", "my-own"),
        ("my-own", "My-Own"),
    ],
)
def test_a_folder_in_another_case_is_found(tmp_path: Path, asked: str, folder: str) -> None:
    (tmp_path / folder).mkdir()
    if "/" in asked:  # the card's own name, in any case
        (tmp_path / folder).rename(tmp_path / "glm-large-CHINESE")
    assert find_model(asked, tmp_path) == tmp_path / folder
    (tmp_path / asked).mkdir(parents=True, exist_ok=True)
    assert find_model(asked, tmp_path) == tmp_path / asked  # the exact name first


def test_a_variant_s_folder_in_another_case_is_found(tmp_path: Path) -> None:
    (tmp_path / "My-Model-NER").mkdir()
    assert fine_tuned_name(tmp_path, "my-model", "ner") == "My-Model-NER"


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3_000, "\ud800", "a\0b", "~nobody-here/x", "", ".", ".."])
def test_odd_names_of_models(tmp_path: Path, name: str) -> None:
    with pytest.raises(FlagAIError):
        resolve(tmp_path, name)
    with pytest.raises(FlagAIError):
        resolve(name or "\0")
