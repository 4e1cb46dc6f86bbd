"""The padding id and the first id of a decoder are those that a model's files say."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.errors import ConfigError
from flagai.model.bert_model import BertConfig, BertModel
from flagai.model.gpt2_model import GPT2Config, GPT2Model
from flagai.model.t5_model import T5Config
from tests import tiny
from tests.model.config_files import written

BERT, GPT2, T5 = tiny.CONFIGS["bert"], tiny.CONFIGS["gpt2"], tiny.CONFIGS["t5"]
WORDS = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n"
LATE = "[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\na\nb\n"
TOKENS = {"added_tokens": [{"id": 3, "content": "<pad>"}], "model": {}}
PADDINGS: dict[str, tuple[dict[str, Any], dict[str, Any], int | None, bool]] = {
    # config.json, other files, the padding id, whether a warning says so
    "BERT": (BERT, {}, 0, False),
    "BERT, vocabulary agrees": (BERT | {"pad_token_id": 0}, {"vocab.txt": WORDS}, 0, False),
    "BERT with RoBERTa's id": (BERT | {"pad_token_id": 1}, {"vocab.txt": WORDS}, 0, True),
    "BERT with RoBERTa's id, no vocabulary": (BERT | {"pad_token_id": 1, "bos_token_id": 0}, {}, 0, True),
    "BERT of ours": (BERT | {"pad_token_id": 1, "position_offset": 0}, {}, 1, False),
    "BERT with an id of its own": (BERT | {"pad_token_id": 3}, {}, 3, False),
    "BERT, other vocabulary": (BERT | {"pad_token_id": 0}, {"vocab.txt": LATE}, 3, True),
    "BERT, tokenizer.json": (BERT, {"tokenizer.json": TOKENS}, 3, True),
    "BERT, added_tokens_decoder": (
        BERT,
        {"tokenizer_config.json": {"pad_token": "<p>", "added_tokens_decoder": {"4": {"content": "<p>"}}}},
        4,
        True,
    ),
    "BERT, special_tokens_map": (
        BERT,
        {"special_tokens_map.json": {"pad_token": {"content": "a"}}, "vocab.txt": WORDS},
        5,
        True,
    ),
    "BERT, vocabulary of another model": (BERT, {"vocab.txt": "a\n" * 40 + "[PAD]\n"}, 0, False),
    "BERT, damaged files": (
        BERT,
        {"tokenizer_config.json": "{", "tokenizer.json": "[", "vocab.txt": b"\xff"},
        0,
        False,
    ),
    "RoBERTa that its architecture tells": (
        {key: value for key, value in BERT.items() if key != "model_type"} | {"architectures": ["RobertaModel"]},
        {"vocab.json": {"<s>": 0, "<pad>": 1}},
        1,
        False,
    ),
    "RoBERTa": (BERT | {"model_type": "roberta"}, {"vocab.json": {"<s>": 0, "<pad>": 1}}, 1, False),
    "GPT-2, Chinese": (GPT2, {}, 0, False),
    "GPT-2, Chinese, saved by transformers": (
        GPT2 | {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": None},
        {},
        0,
        True,
    ),
    "GPT-2, Chinese, with its vocabulary": (
        GPT2 | {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": None},
        {"vocab.txt": WORDS},
        0,
        True,
    ),
    "GPT-2, padding beyond": (GPT2 | {"pad_token_id": 50256, "eos_token_id": 50256}, {}, 0, True),
    "GPT-2, byte level": (GPT2 | {"bos_token_id": 36, "eos_token_id": 36}, {"vocab.json": {"a": 0}}, None, False),
    "GPT-2, byte level, null": (GPT2 | {"pad_token_id": None}, {}, None, False),
    "GPT-2, padding ends texts": (GPT2 | {"pad_token_id": 36, "eos_token_id": [36, 2]}, {}, None, False),
    "GPT-2, padding ends texts, in words": (
        GPT2 | {"eos_token_id": 36, "bos_token_id": 36},
        {"tokenizer_config.json": {"pad_token": "<e>", "eos_token": "<e>"}, "vocab.json": {"<e>": 36}},
        None,
        False,
    ),
    "GPT-2, padding of its own": (GPT2 | {"eos_token_id": 36}, {"vocab.json": {"a": 0, "<pad>": 7}}, 7, True),
}


@pytest.mark.parametrize("case", PADDINGS)
def test_the_padding_id_is_that_of_the_files(tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture) -> None:
    content, files, wanted, told = PADDINGS[case]
    cls = GPT2Config if "n_embd" in content else BertConfig
    with caplog.at_level(logging.WARNING):
        config = cls.from_json(written(tmp_path, content, files))
    assert config.pad_token_id == wanted
    assert ("pad" in caplog.text) == told
    assert cls.from_json(tmp_path / "config.json", pad_token_id=2).pad_token_id == 2
    config.to_json(tmp_path / "config.json")
    for name in files:
        (tmp_path / name).unlink()
    assert cls.from_json(tmp_path / "config.json").pad_token_id == wanted, "the saved configuration means the same"


@pytest.mark.parametrize(
    ("cls", "content"),
    [
        (BertModel, BERT | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}),
        (GPT2Model, GPT2 | {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": None}),
    ],
)
@torch.no_grad()
def test_rows_padded_with_zeros_are_masked_whatever_saving_added(cls: Any, content: Any, tmp_path: Path) -> None:
    plain = {key: value for key, value in content.items() if not key.endswith("_token_id")}
    model = tiny.randomised(cls.init_from_json(written(tmp_path, plain, {})), std=0.2).eval()
    model.save_pretrained(tmp_path / "model")
    ids = torch.tensor([[4, 5, 6, 0, 0], [4, 5, 6, 7, 8]])
    wanted = model(ids)["logits"][:, :3]
    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    saved.pop("position_offset", None)  # transformers knows no such key
    written(tmp_path / "model", saved | content, {})
    again = cls.from_pretrained(tmp_path / "model")(ids)["logits"][:, :3]
    assert torch.equal(again, wanted)


def test_a_bert_called_roberta_has_the_padding_of_its_vocabulary(tmp_path: Path) -> None:
    content = BERT | {"model_type": "roberta", "pad_token_id": 1, "architectures": ["BertModel"]}
    file = written(tmp_path, content, {"vocab.txt": WORDS})
    config = BertConfig.from_json(file, position_offset=0)
    assert (config.position_offset, config.pad_token_id) == (0, 0)
    roberta = BertConfig.from_json(file, position_offset=2, pad_token_id=1)
    assert (roberta.position_offset, roberta.pad_token_id) == (2, 1)


def test_the_decoder_starts_as_generation_config_says(tmp_path: Path) -> None:
    files = {"generation_config.json": {"decoder_start_token_id": 5}}
    config = {key: value for key, value in T5.items() if key != "decoder_start_token_id"}
    assert T5Config.from_json(written(tmp_path, config, files)).start_token == 5
    assert T5Config.from_json(tmp_path / "config.json", decoder_start_token_id=6).start_token == 6
    written(tmp_path, config, {"generation_config.json": {"decoder_start_token_id": "five"}})
    with pytest.raises(ConfigError, match=r"generation_config\.json, decoder_start_token_id: 'five'"):
        T5Config.from_json(tmp_path / "config.json")
