"""transformers' glm and glm4 of several shapes equal ours, both ways: logits, steps and what they write."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from flagai.data.prompt import Prompt
from flagai.generation import Decoding, generate
from flagai.model.chatglm_model import ChatGLM2ForSequenceClassification, ChatGLM2Model
from tests.tiny import randomised

KINDS: dict[str, tuple[Any, Any]] = {
    "glm": (transformers.GlmConfig, transformers.GlmForCausalLM),
    "glm4": (transformers.Glm4Config, transformers.Glm4ForCausalLM),
}
SHAPES: list[dict[str, Any]] = [
    {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    {"num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 8, "attention_bias": False},
    {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "tie_word_embeddings": True,
        "hidden_size": 40,
    },
    {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 12, "num_hidden_layers": 1, "vocab_size": 33},
]
COMMON = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "pad_token_id": 0,
    "eos_token_id": [5, 6],
    "attention_bias": True,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
}
ROTARY: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    {"rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 1.0},
    {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
]


def theirs(kind: str, seed: int, **shape: Any) -> Any:
    config, cls = KINDS[kind]
    torch.manual_seed(seed)
    settings = {**COMMON, "rope_parameters": ROTARY[seed % len(ROTARY)], **shape}
    return randomised(cls(config(**settings)).eval())


@pytest.mark.parametrize("number", range(len(SHAPES)))
@pytest.mark.parametrize("kind", KINDS)
def test_equal_both_ways(kind: str, number: int, tmp_path: Path) -> None:
    other = theirs(kind, number, **SHAPES[number])
    other.save_pretrained(tmp_path / "theirs")
    ours = ChatGLM2Model.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "original")
    ChatGLM2Model.from_pretrained(tmp_path / "original").save_pretrained(tmp_path / "again", layout="huggingface")
    back = KINDS[kind][1].from_pretrained(tmp_path / "again").eval()
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in other.state_dict().items())
    ids = torch.randint(7, 33, (3, 11), generator=torch.Generator().manual_seed(number))
    mask = (torch.arange(11) >= torch.tensor([[0], [4], [1]])).long()
    with torch.no_grad():
        want = other(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
        found, same = ours(ids, attention_mask=mask)["logits"], back(ids).logits
        torch.testing.assert_close(found[mask.bool()], want[mask.bool()], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(same, other(ids).logits)
        asked = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        written = other.generate(ids, **asked)[:, 11:].tolist()
    texts = [Prompt(tuple(row[real.bool()].tolist())) for row, real in zip(ids, mask, strict=True)]
    for row, answer in zip(
        written, generate(ours, texts, Decoding(max_new_tokens=8, stop_token_ids=(5, 6))), strict=True
    ):
        end = next((place for place, token in enumerate(row) if token in (5, 6)), len(row))
        assert [token for token in answer[0].ids if token not in (5, 6)] == row[:end]


def test_classifiers(tmp_path: Path) -> None:
    config = transformers.GlmConfig(**COMMON, **SHAPES[0], num_labels=3)
    other = randomised(transformers.GlmForSequenceClassification(config).eval())
    other.save_pretrained(tmp_path)
    ours = ChatGLM2ForSequenceClassification.from_pretrained(tmp_path, class_num=3)
    ids = torch.randint(7, 33, (3, 9))
    ids[1, :3] = 0
    with torch.no_grad():
        mask = (ids != 0).long()
        want = other(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
        torch.testing.assert_close(ours(ids, mask)["logits"], want, atol=1e-4, rtol=1e-4)
