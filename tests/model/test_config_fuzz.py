"""Any JSON value at any key of config.json and generation_config.json ends in a model or in this library's errors."""

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flagai.auto_model.auto_loader import AutoLoader
from flagai.auto_model.lookup import family_at
from flagai.auto_model.registry import find_class
from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import FlagAIError
from flagai.typed_json import read_json
from tests import tiny

CLASSES = {
    "GLMForSequenceClassification": {},
    "BertForClsClassifier": {},
    "BertForSequenceLabelingGP": {},
    "GPT2Model": {},
    "T5Model": {},
}
# Keys that files have besides the fields of configurations.
FOREIGN = (
    "model_type", "architectures", "id2label", "label2id", "num_labels", "problem_type", "bos_token_id", "eos_token_id",
    "pad_token_id", "scale_decoder_outputs", "position_embedding_type", "is_decoder", "add_cross_attention",
    "pruned_heads", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "quantized", "quantization_config",
    "per_layer_config", "vocab_size_or_config_json_file", "n_ctx", "dtype", "torch_dtype",
    "task_specific_params", "auto_map", "extra", "head_dim", "transformers_version", "initializer_range",
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "12", "1e-5", "gelu", "gated-silu", "BertModel", "bert", "roberta", "mt5", "int8", "cls"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("012ab"), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
FUZZING = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("models")
    for name in CLASSES:
        tiny.build(name).save_pretrained(home / name)
    return home


@torch.no_grad()
def used(name: str, folder: Path) -> None:
    """Load a folder in every way that reads its configuration, and run the model."""
    for way in (
        lambda: family_at(folder.name, folder.parent),
        lambda: find_class(read_json(folder / "config.json"), open_checkpoint(folder)),
        lambda: AutoLoader("classification", folder.name, folder.parent),
        lambda: tiny.CLASSES[name].from_pretrained(folder)(**tiny.batch(name)),
    ):
        try:
            way()
        except FlagAIError as error:
            longest = max(len(line) for line in str(error).splitlines())
            if longest > 2000:
                pytest.fail(f"a message quotes {longest} characters: {str(error)[:300]}")


@pytest.mark.parametrize("name", CLASSES)
@FUZZING
@given(data=st.data())
def test_any_value_at_any_key(name: str, home: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = json.loads((home / name / "config.json").read_text())
    keys = st.sampled_from(sorted({*content, *tiny.CLASSES[name].config_class.names(), *FOREIGN}))
    changes = data.draw(st.dictionaries(keys, JSON, min_size=1, max_size=2))
    absent = data.draw(st.sets(keys, max_size=1))
    target = tmp_path / "model"
    shutil.copytree(home / name, target, dirs_exist_ok=True)
    kept = {key: value for key, value in {**content, **changes}.items() if key not in absent}
    (target / "config.json").write_text(json.dumps(kept))
    if name == "T5Model":
        (target / "generation_config.json").write_text(json.dumps(data.draw(GENERATION)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        used(name, target)


GENERATION = st.dictionaries(
    st.sampled_from(["decoder_start_token_id", "num_beams", "bad_words_ids", "max_length", "eos_token_id", "top_k"]),
    JSON,
)


def test_generation_defaults_are_told(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "model"
    shutil.copytree(home / "T5Model", target)
    plain = {"_from_model_config": True, "eos_token_id": 1, "num_beams": 1, "max_length": 20, "do_sample": False}
    for content, told in ((plain, False), (plain | {"num_beams": 4, "bad_words_ids": [[3]]}, True)):
        (target / "generation_config.json").write_text(json.dumps(content))
        with caplog.at_level(logging.WARNING):
            tiny.CLASSES["T5Model"].from_pretrained(target)
        assert ("sets num_beams=4, bad_words_ids=[[3]] for generate()" in caplog.text) == told
    (target / "generation_config.json").write_text("[")
    with pytest.raises(FlagAIError, match=r"generation_config\.json is not valid JSON"):
        tiny.CLASSES["T5Model"].from_pretrained(target)


@pytest.mark.parametrize("name", ["GPT2Model", "T5Model"])
def test_end_tokens_of_generation_config_replace_the_configurations(name: str, home: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    shutil.copytree(home / name, target)
    (target / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    assert tiny.CLASSES[name].from_pretrained(target).config["eos_token_id"] == [2, 3]
    (target / "generation_config.json").write_text('{"eos_token_id": "two"}')
    with pytest.raises(FlagAIError, match=r"generation_config\.json, eos_token_id: .*an id or a list of ids"):
        tiny.CLASSES[name].from_pretrained(target)


def test_the_fuzz_reaches_the_models(home: Path) -> None:
    for name in CLASSES:
        tiny.CLASSES[name].from_pretrained(home / name)(**tiny.batch(name))
        used(name, home / name)


def test_values_that_were_raw_errors(home: Path, tmp_path: Path) -> None:
    """Sizes whose product is beyond what torch can count, for one."""
    found: list[tuple[str, dict[str, Any]]] = [
        ("BertForClsClassifier", {"architectures": [[]]}),
        ("BertForClsClassifier", {"hidden_size": 10**12}),
        ("GPT2Model", dict.fromkeys(("n_embd", "n_head", "vocab_size", "n_inner", "n_positions"), 2**31)),
        ("T5Model", dict.fromkeys(("d_model", "d_kv", "d_ff", "num_heads", "vocab_size"), 2**20)),
        ("T5Model", {"relative_attention_num_buckets": 1}),
        *(
            ("BertForClsClassifier", {key: "x" * 10**5})
            for key in ("model_type", "architectures", "quantized", "hidden_act")
        ),
        ("BertForClsClassifier", {"id2label": {"y" * 10**5: "x" * 10**5}, "problem_type": "z" * 10**5}),
    ]
    for number, (name, changes) in enumerate(found):
        target = tmp_path / str(number)
        shutil.copytree(home / name, target)
        content = json.loads((target / "config.json").read_text()) | changes
        (target / "config.json").write_text(json.dumps(content))
        used(name, target)
