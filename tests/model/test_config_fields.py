"""Fields of configurations carry their documentation; docs/configuration.md has all of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from flagai.model.bert_config import BertConfig
from flagai.model.chatglm2_config import ChatGLM2Config
from flagai.model.chatglm_config import ChatGLMConfig
from flagai.model.config import ModelConfig
from flagai.model.config_fields import FieldSpec, field_specs
from flagai.model.glm_config import GLMConfig
from flagai.model.gpt2_config import GPT2Config
from flagai.model.t5_config import T5Config

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
CONFIGS: dict[str, type[ModelConfig]] = {
    "GLM": GLMConfig,
    "BERT": BertConfig,
    "GPT-2": GPT2Config,
    "T5": T5Config,
    "ChatGLM-6B and GLM-130B": ChatGLMConfig,
    "ChatGLM2 to GLM-4": ChatGLM2Config,
}


def shown(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else f"{value}"


def bound(number: float) -> str:
    power = int(number).bit_length() - 1
    return f"2^{power}" if number == 2**power and number > 4096 else f"{number:,}"


def table(cls: type[ModelConfig]) -> str:
    lines = ["| field | default | range | meaning |", "|---|---|---|---|"]
    for spec in field_specs(cls).values():
        name = f"`{spec.name}`" + "".join(f", `{alias}`" for alias in spec.aliases)
        default = "required" if spec.required else f"`{shown(cls.__dataclass_fields__[spec.name].default)}`"
        limits = "" if spec.range is None else " to ".join(map(bound, spec.range))
        lines.append(f"| {name} | {default} | {limits} | {spec.doc} |")
    return "\n".join(lines)


@pytest.mark.parametrize("cls", CONFIGS.values())
def test_every_field_is_documented(cls: type[ModelConfig]) -> None:
    assert not [spec.name for spec in field_specs(cls).values() if not spec.doc]


@pytest.mark.parametrize("family", CONFIGS)
def test_the_page_has_the_table_of_each_family(family: str) -> None:
    wanted = f"## {family}\n\n{table(CONFIGS[family])}\n"
    assert wanted in PAGE.read_text(encoding="utf-8"), f"put this into {PAGE.name}:\n{wanted}"


def test_numbers_are_limited_by_the_field_and_spelled_by_the_type() -> None:
    spec = FieldSpec("rate", (float, str), required=False, range=(0, 1))
    assert [spec.parse(value, "Mine") for value in (1, "x", 0.5)] == [1.0, "x", 0.5]
