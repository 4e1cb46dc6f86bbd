"""Tiny models of transformers with adapters of PEFT, and ours that read the same folders."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from flagai.model.chatglm2_model import ChatGLM2Model
from tests import tiny
from tests.parity.test_transformers import PAIRS, Pair, batch

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"
_GLM = {
    "vocab_size": 41,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
MODELS = {
    **PAIRS,
    "glm": Pair(transformers.GlmForCausalLM, ChatGLM2Model, _GLM, 41),
    "glm4": Pair(transformers.Glm4ForCausalLM, ChatGLM2Model, _GLM, 41),
}


@dataclass(frozen=True)
class Row:
    """A row of the page's table: a model, the options of its adapter, and the differences that it promises."""

    model: str
    options: dict[str, Any]
    bound: float


def rows() -> dict[str, Row]:
    """The rows of the table in docs/adapters.md, by their models and options."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"`[\w.-]+`", cells[1]):
            options = dict(re.findall(r"`(\w+)=([^`]*)`", cells[2]))
            values = {key: _value(value) for key, value in options.items()}
            found[f"{cells[1]} {cells[2]}".replace("`", "")] = Row(cells[1].strip("`"), values, float(cells[3]))
    return found


def _value(text: str) -> Any:
    names = text.split(",")
    return {"True": True}.get(text, int(text) if text.isdigit() else names)


def adapted(pair: Pair, folder: Path, seed: int = 0, **options: Any) -> Any:
    """A model of PEFT with a random adapter, which is written into a folder, and its base into ``base`` beside it."""
    theirs = pair.build()
    if not (folder.parent / "base").exists():
        theirs.save_pretrained(folder.parent / "base")
    config = peft.LoraConfig(r=3, fan_in_fan_out=pair.theirs is transformers.GPT2LMHeadModel, **options)
    model = peft.get_peft_model(theirs, config).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return model


def inputs(pair: Pair) -> tuple[dict[str, torch.Tensor], Any]:
    """A batch, and where its outputs mean something."""
    if pair.ours is ChatGLM2Model:
        return {"input_ids": tiny.ids(41, 3, 9)}, slice(None)
    arguments, real = batch(pair, "right")
    if "labels" in arguments and arguments["labels"].dim() == 1:
        return arguments, slice(None)
    return arguments, real


def output(model: Any, arguments: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits, or the hidden states of a backbone."""
    with torch.inference_mode():
        found = model(**arguments)
    for name in ("logits", "last_hidden_state", "hidden_states"):
        if name in found:
            tensor: torch.Tensor = found[name]
            return tensor
    raise pytest.UsageError("no output")
