"""Bad files and configurations: each gives one clear error; :mod:`test_bad_pickles` has what could be executed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import CheckpointError, ConfigError, ModelNotFoundError
from flagai.model.bert_model import BertModel
from flagai.model.glm_model import GLMModel
from tests import tiny
from tests.checkpoint.making import WEIGHTS, equal, refused, saved, tensors, write, write_safetensors

FORMATS = ("model.safetensors", "zip.bin", "legacy.bin")


# -- damaged files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_file_loads(tmp_path: Path, name: str) -> None:
    checkpoint = open_checkpoint(write(tmp_path / name))
    assert {key: checkpoint.tensors(key)[0].tolist() for key in checkpoint} == {
        key: tensor.tolist() for key, tensor in WEIGHTS.items()
    }


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    whole = path.read_bytes()
    for length in {*range(20), *range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with refused(str(path), kind=CheckpointError):
            open_checkpoint(path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "mp_rank_00_model_states.pt"])
@pytest.mark.parametrize(
    "content", [b"", b"<html>404: not found</html>", b"\x00" * 100, b"PK\x03\x04" + b"\x00" * 100, b"\xff" * 100]
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with refused(name, kind=CheckpointError):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_pointer_is_recognised(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    with refused(name, "git lfs pull", kind=CheckpointError):
        open_checkpoint(tmp_path)


def test_nothing_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="absent"):
        open_checkpoint(tmp_path / "absent")
    with refused(str(tmp_path), "empty folder", kind=ModelNotFoundError):
        open_checkpoint(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"config\.json.*empty folder"):
        GLMModel.from_pretrain(tmp_path.parent, tmp_path.name)


def test_nan_filled_weights_load(tmp_path: Path) -> None:
    model = tiny.build("BertForMaskLM")
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrain(tmp_path)
    assert all(parameter.isnan().all() for parameter in loaded.parameters())
    assert loaded.config.tie_word_embeddings  # two copies full of NaN are the same copy


# -- safetensors headers ----------------------------------------------------------------------------------------


def entry(begin: Any, end: Any, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWO = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
BAD_HEADERS: dict[str, Any] = {
    "overlap": {"a": entry(0, 8), "b": entry(4, 12)},
    "same bytes": {"a": entry(0, 8), "b": entry(0, 8)},
    "hole": {"a": entry(0, 8), "b": entry(12, 20)},
    "late begin": {"a": entry(4, 12)},
    "beyond the end": {"a": entry(0, 8), "b": entry(8, 64, (14,))},
    "data nobody describes": {"a": entry(0, 8)},
    "negative offset": {"a": entry(-8, 0)},
    "reversed": {"a": entry(8, 0)},
    "bool offset": {"a": entry(False, 8)},
    "float offset": {"a": entry(0.0, 8)},
    "text offset": {"a": entry("0", "8")},
    "three offsets": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "negative extent": {"a": entry(0, 8, (-1, -2))},
    "float extent": {"a": entry(0, 8, (2.0,))},
    "bool extent": {"a": entry(0, 4, (True,))},
    "text shape": {"a": entry(0, 8, "2")},
    "no shape": {"a": entry(0, 8, None)},
    "wrong size": {"a": entry(0, 8, (3,))},
    "huge extent beside a zero": {"a": entry(0, 0, (0, 2**70)), "b": entry(0, 16, (4,))},
    "uncountable beside a zero": {"a": entry(0, 0, (0, 2**40, 2**40)), "b": entry(0, 16, (4,))},
    "huge number": {"a": entry(0, 2**80, (2**78,))},
    "unknown dtype": {"a": entry(0, 8, dtype="F33")},
    "dtype is a list": {"a": entry(0, 8, dtype=["F32"])},
    "entry is a list": {"a": [1, 2]},
    "list": [],
    "number": 7,
    "duplicate names": TWO,
    "no JSON": b"{" * 20,
    "deep JSON": b'{"a":' + b"[" * 200_000,
    "no UTF-8": b'{"\xff":1}',
    "NaN": b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}',
    "long number": b'{"a":{"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,8]}}',
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", header, bytes(16))
    with refused(str(path), kind=CheckpointError):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**31, 2**63 - 1, 2**64 - 1])
def test_a_wrong_header_length_is_refused(tmp_path: Path, length: int) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"a": entry(0, 8)}, bytes(8), length=length)
    with refused(str(path), kind=CheckpointError):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("padding", range(8))
def test_unaligned_data_is_read_right(tmp_path: Path, padding: int) -> None:
    values = torch.tensor([1.5, -2.25, 3e-30])
    header = json.dumps({"a": entry(0, 1, (1,), "U8"), "b": entry(1, 13, (3,)), "": entry(13, 13, (0, 3))})
    data = b"\x07" + values.numpy().tobytes()
    path = write_safetensors(tmp_path / "model.safetensors", (header + " " * padding).encode(), data)
    checkpoint = open_checkpoint(path)
    assert torch.equal(checkpoint.tensors("b")[0], values)
    assert checkpoint.tensors("a")[0].item() == 7
    assert checkpoint.tensors("")[0].shape == (0, 3)


# -- indexes, shards and parts ----------------------------------------------------------------------------------

BAD_INDEXES: dict[str, tuple[Any, str]] = {
    "parent": ({"weight_map": {"a": "../model.safetensors"}}, "../model.safetensors"),
    "absolute": ({"weight_map": {"a": "/etc/passwd"}}, "/etc/passwd"),
    "dots": ({"weight_map": {"a": ".."}}, "'..'"),
    "no name": ({"weight_map": {"a": ""}}, "''"),
    "zero byte": ({"weight_map": {"a": "x\0.bin"}}, "absent"),
    "long name": ({"weight_map": {"a": "x" * 5000}}, "model.safetensors.index.json"),
    "lone surrogate": ({"weight_map": {"a": "\ud800.bin"}}, "surrogates not allowed"),
    "number": ({"weight_map": {"a": 3}}, "3"),
    "empty map": ({"weight_map": {}}, "no weight_map"),
    "list map": ({"weight_map": ["a"]}, "no weight_map"),
    "no map": ({}, "no weight_map"),
    "list": ([1], "list"),
    "absent shard": ({"weight_map": {"a": "whole.safetensors", "b": "other.safetensors"}}, "other.safetensors"),
    "absent tensor": ({"weight_map": {"a": "whole.safetensors", "z": "whole.safetensors"}}, "'z'"),
}


@pytest.mark.parametrize(("content", "words"), BAD_INDEXES.values(), ids=BAD_INDEXES)
def test_a_bad_index_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "whole.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with refused(str(tmp_path), words, kind=CheckpointError):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, '{"weight_map": NaN}', "\xff", '{"weight_map"'])
def test_an_index_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(text.encode("latin1"))
    with refused("index.json", "JSON", kind=CheckpointError):
        open_checkpoint(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file(
            {"a": torch.ones(2), f"b{number}": torch.ones(1)}, tmp_path / f"model-0000{number}-of-00002.safetensors"
        )
    with refused(str(tmp_path), "'a'", "model-00002-of-00002.safetensors", kind=CheckpointError):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["pytorch_model_01.bin"], "number 0"),
        (["mp_rank_00_model_states.pt", "mp_rank_02_model_states.pt"], "number 1"),
        (["pytorch_model-00001-of-00003.bin", "pytorch_model-00003-of-00003.bin"], "number 2"),
        (["pytorch_model-00001-of-99999999999999.bin"], "number 0"),
        (["pytorch_model-0.bin", "pytorch_model-2.bin"], "number 1"),
        (["pytorch_model-00001-of-00001.bin", "pytorch_model-00001-of-00002.bin"], "several checkpoints"),
    ],
)
def test_an_incomplete_set_of_files_is_refused(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        write(tmp_path / name)
    with refused(str(tmp_path), words, kind=CheckpointError):
        open_checkpoint(tmp_path)


def test_parts_with_different_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "pytorch_model_00.bin", {"a": torch.ones(2), "b": torch.ones(2)})
    write(tmp_path / "pytorch_model_01.bin", {"a": torch.ones(2), "c": torch.ones(2)})
    with refused(str(tmp_path), "Part 1", "'b'", kind=CheckpointError):
        open_checkpoint(tmp_path)


def test_parts_with_different_shapes_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    whole = tensors(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for rank in range(2):
        half = whole | {"word_embeddings.weight": whole["word_embeddings.weight"][:, : 12 - rank]}
        write(tmp_path / f"pytorch_model_0{rank}.bin", half)
    with refused("embed.token.weight", "word_embeddings.weight", kind=CheckpointError):
        GLMModel.from_pretrain(tmp_path)


@pytest.mark.parametrize("tag", ["", "  \n", "..", "../elsewhere", "/etc", "absent", "file", "empty", "\0"])
@pytest.mark.parametrize("name", ["latest", "latest_checkpointed_iteration.txt"])
def test_a_tag_that_leads_nowhere_is_refused(tmp_path: Path, name: str, tag: str) -> None:
    folder = tmp_path / "model"
    (folder / "empty").mkdir(parents=True)
    (folder / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "pytorch_model_00.bin")
    (folder / name).write_text(tag)
    with refused(str(folder / name), kind=CheckpointError):
        open_checkpoint(folder)


# -- configurations ---------------------------------------------------------------------------------------------

GLM = tiny.CONFIGS["glm"]
BAD_CONFIGS: dict[str, tuple[str, str]] = {
    "empty": ("", "JSON"),
    "truncated": (json.dumps(GLM)[:-9], "JSON"),
    "list": (json.dumps([GLM]), "list"),
    "deep": ('{"a":' * 200_000, "JSON"),
    "NaN": (json.dumps(GLM | {"layernorm_epsilon": float("nan")}), "NaN"),
    "infinity": (json.dumps(GLM | {"layernorm_epsilon": float("inf")}), "Infinity"),
    "missing key": (json.dumps({key: GLM[key] for key in GLM if key != "vocab_size"}), "vocab_size"),
    "text for a number": (json.dumps(GLM | {"num_layers": "two"}), "num_layers"),
    "bool for a number": (json.dumps(GLM | {"num_layers": True}), "num_layers"),
    "float for a number": (json.dumps(GLM | {"num_layers": 2.5}), "num_layers"),
    "null for a number": (json.dumps(GLM | {"hidden_size": None}), "hidden_size"),
    "list for a number": (json.dumps(GLM | {"hidden_size": [12]}), "hidden_size"),
    "odd heads": (json.dumps(GLM | {"num_attention_heads": 5}), "5 heads"),
    "another family": (json.dumps(tiny.CONFIGS["bert"]), "bert_model"),
    "no family of ours": (json.dumps({"model_type": "llama", "hidden_size": 4}), "llama"),
    "GLM-4": (json.dumps({"model_type": "glm", "num_hidden_layers": 2, "hidden_size": 4}), "chatglm2"),
}


@pytest.mark.parametrize(("text", "words"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_bad_configuration_is_refused(tmp_path: Path, text: str, words: str) -> None:
    saved(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json") as caught:
        GLMModel.from_pretrain(tmp_path)
    assert words in str(caught.value)


def test_a_configuration_of_another_family_says_where_to_go(tmp_path: Path) -> None:
    saved(tmp_path)
    with refused("config.json", "flagai.model.glm_model", kind=ConfigError):
        BertModel.from_pretrain(tmp_path)


def test_the_refusals_above_are_not_of_everything(tmp_path: Path) -> None:
    assert equal(saved(tmp_path), GLMModel.from_pretrain(tmp_path))
