"""Fields of configurations carry their documentation, of which the site makes tables."""

import pytest

from flagai.model.bert_config import BertConfig
from flagai.model.chatglm2_config import ChatGLM2Config
from flagai.model.chatglm_config import ChatGLMConfig
from flagai.model.config import ModelConfig
from flagai.model.config_fields import FieldSpec, field_specs
from flagai.model.glm_config import GLMConfig
from flagai.model.gpt2_config import GPT2Config
from flagai.model.t5_config import T5Config

CONFIGS = (GLMConfig, BertConfig, GPT2Config, T5Config, ChatGLMConfig, ChatGLM2Config)


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_field_is_documented(cls: type[ModelConfig]) -> None:
    assert not [spec.name for spec in field_specs(cls).values() if not spec.doc]


def test_numbers_are_limited_by_the_field_and_spelled_by_the_type() -> None:
    spec = FieldSpec("rate", (float, str), required=False, range=(0, 1))
    assert [spec.parse(value, "Mine") for value in (1, "x", 0.5)] == [1.0, "x", 0.5]
