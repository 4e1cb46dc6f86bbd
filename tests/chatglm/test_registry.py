"""Which class loads a folder is said by keys; nothing of a folder is executed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.errors import ConfigError, InputError
from flagai.families.config_content import family_of
from flagai.model import GLMModel
from flagai.model.chatglm_model import ChatGLM2ForSequenceClassification, ChatGLM2Model, ChatGLMModel
from tests import tiny
from tests.chatglm.cases import ROOT, folder, open_folder

HOSTILE = """
from pathlib import Path
Path(__file__).with_name("executed").write_text("by import")
class ChatGLMConfig: pass
class ChatGLMForConditionalGeneration: pass
"""


@pytest.mark.parametrize(
    ("content", "family"),
    [
        ({"model_type": "chatglm", "architectures": ["ChatGLMModel"], "inner_hidden_size": 64}, "chatglm"),
        ({"model_type": "chatglm", "architectures": ["ChatGLMModel"], "ffn_hidden_size": 64}, "chatglm2"),
        ({"model_type": "glm", "num_layers": 2, "block_position_encoding": True}, "glm"),
        ({"model_type": "glm", "num_hidden_layers": 2, "num_key_value_heads": 2}, "chatglm2"),
        ({"model_type": "glm4"}, "chatglm2"),
        ({"model_type": "glm-130b"}, "chatglm"),
        ({"inner_hidden_size": 64, "position_encoding_2d": False}, "chatglm"),
    ],
)
def test_keys_decide(content: dict[str, Any], family: str) -> None:
    assert family_of(content) == family


@pytest.mark.parametrize("kind", ["glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "glm5_next", "glm4v", "glm4v_moe"])
def test_later_glms_are_refused_with_advice(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"'{kind}' model.*transformers or vLLM"):
        family_of({"model_type": kind})


@pytest.mark.parametrize(("name", "cls"), [("chatglm6b", ChatGLMModel), ("chatglm3-6b", ChatGLM2Model)])
def test_a_hostile_folder_is_read_and_not_executed(name: str, cls: type, tmp_path: Path) -> None:
    target = folder(name, tmp_path / name)
    for file in ("modeling_chatglm.py", "configuration_chatglm.py", "quantization.py", "__init__.py"):
        (target / file).write_text(HOSTILE)
    model = open_folder(target)
    assert type(model) is cls
    model.save_pretrained(target)
    assert type(open_folder(target)) is cls
    assert not (target / "executed").exists()


def test_a_class_of_another_generation_says_where_to_go() -> None:
    with pytest.raises(ConfigError, match=r"flagai\.model\.chatglm2_model"):
        ChatGLMModel.from_pretrained(ROOT / "chatglm3-6b")
    with pytest.raises(ConfigError, match=r"flagai\.model\.chatglm_model"):
        ChatGLM2Model.from_pretrained(ROOT / "chatglm6b")
    with pytest.raises(ConfigError, match="chatglm2"):
        GLMModel.from_pretrained(ROOT / "native-glm")


@pytest.mark.parametrize("layout", ["flagai", "huggingface"])
def test_a_classifier_is_known_by_its_head(layout: str, tmp_path: Path) -> None:
    model = tiny.build("ChatGLM2ForSequenceClassification")
    model.save_pretrained(tmp_path, layout=layout)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"architectures": ["ChatGLMForSequenceClassification"]}))
    found = open_folder(tmp_path)
    assert type(found) is ChatGLM2ForSequenceClassification
    ids = tiny.ids(41, 2, 5)
    assert torch.equal(found(ids)["logits"], model(ids)["logits"])


def test_the_original_s_masks_are_refused() -> None:
    model = tiny.build("ChatGLMModel")
    hidden = torch.ones(3, 8, 8).triu(1).bool()
    with pytest.raises(InputError, match="pass ~attention_mask"):
        model(tiny.batch("ChatGLMModel")["input_ids"], attention_mask=hidden)
