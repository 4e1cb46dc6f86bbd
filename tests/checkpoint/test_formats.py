"""Every layout in circulation is found and gives the same model, bit for bit."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flagai.errors import CheckpointError, ConfigError, LoadError
from flagai.model.bert_model import BertModel
from flagai.model.glm_model import GLMModel
from flagai.model.gpt2_model import GPT2Model
from tests.checkpoint.making import equal, saved, tensors

State = dict[str, torch.Tensor]
# Divisible by 1 to 4, as the original's splitting tool demands.
GLM = {"vocab_size": 48, "hidden_size": 24, "num_attention_heads": 12}


@pytest.fixture
def glm(tmp_path: Path) -> tuple[Any, State, Path]:
    """A GLM, its tensors under the original's names, and a folder with its configuration only."""
    model = saved(tmp_path / "model", **GLM)
    state = tensors(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    return model, state, tmp_path / "model"


def halves(state: State) -> list[State]:
    names = list(state)
    return [{name: state[name] for name in part} for part in (names[:7], names[7:])]


def with_index(folder: Path, files: dict[str, State], index: str, write: Callable[[State, Path], Any]) -> None:
    for name, part in files.items():
        write(part, folder / name)
    weight_map = {tensor: name for name, part in files.items() for tensor in part}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def shards(state: State, pattern: str) -> dict[str, State]:
    return {pattern.format(number): part for number, part in enumerate(halves(state), 1)}


def save_each(folder: Path, files: dict[str, Any], write: Callable[[Any, Path], Any] = torch.save) -> None:
    folder.mkdir(exist_ok=True)
    for name, part in files.items():
        write(part, folder / name)


def tagged(folder: Path, state: State, pointer: str, name: str = "mp_rank_00_model_states.pt", mark: str = "") -> None:
    save_each(folder / "150000", {name: {"module": state, "iteration": 7}})
    (folder / pointer).write_text(f"{mark}150000\n", encoding="utf-8")


# SwissArmyTransformer's names that differ from the original's.
SAT = {
    "word_embeddings.weight": "transformer.word_embeddings.weight",
    "transformer.block_position_embeddings.weight": (
        "mixins.block_position_embedding.block_position_embeddings.weight"
    ),
}
LAYOUTS: dict[str, Callable[[Path, State], Any]] = {
    "safetensors": lambda folder, state: save_file(state, folder / "model.safetensors"),
    "bin": lambda folder, state: torch.save(state, folder / "pytorch_model.bin"),
    "legacy bin": lambda folder, state: torch.save(
        state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False
    ),
    "module": lambda folder, state: torch.save({"module": state, "lr": 0.1}, folder / "pytorch_model.bin"),
    "state_dict": lambda folder, state: torch.save({"state_dict": state}, folder / "pytorch_model.bin"),
    "parameters": lambda folder, state: torch.save(
        {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}, folder / "pytorch_model.bin"
    ),
    "safetensors shards": lambda folder, state: with_index(
        folder, shards(state, "model-0000{}-of-00002.safetensors"), "model.safetensors.index.json", save_file
    ),
    "bin shards": lambda folder, state: with_index(
        folder, shards(state, "pytorch_model-0000{}-of-00002.bin"), "pytorch_model.bin.index.json", torch.save
    ),
    "odd shard names": lambda folder, state: with_index(
        folder, shards(state, "part{}.safetensors"), "model.safetensors.index.json", save_file
    ),
    "safetensors shards without an index": lambda folder, state: save_each(
        folder, shards(state, "model-0000{}-of-00002.safetensors"), save_file
    ),
    "bin shards without an index": lambda folder, state: save_each(
        folder, shards(state, "pytorch_model-0000{}-of-00002.bin")
    ),
    "FlagAI's shards": lambda folder, state: save_each(
        folder, {f"pytorch_model-{number}.bin": part for number, part in enumerate(halves(state))}
    ),
    "both kinds of shards": lambda folder, state: (
        save_each(folder, {"pytorch_model-00001-of-00001.bin": {"old": torch.ones(1)}}),
        save_each(folder, shards(state, "model-0000{}-of-00002.safetensors"), save_file),
    ),
    "one part": lambda folder, state: save_each(folder, {"pytorch_model_00.bin": {"module": state}}),
    "DeepSpeed": lambda folder, state: tagged(folder, state, "latest"),
    "Megatron": lambda folder, state: tagged(folder, state, "latest_checkpointed_iteration.txt"),
    "FlagAI's trainer": lambda folder, state: tagged(
        folder, state, "latest_checkpointed_iteration.txt", "pytorch_model.bin"
    ),
    "a tag with a byte order mark": lambda folder, state: tagged(folder, state, "latest", mark="\ufeff"),
    "SwissArmyTransformer": lambda folder, state: torch.save(
        {"module": {SAT.get(name, name): tensor for name, tensor in state.items()}},
        folder / "mp_rank_00_model_states.pt",
    ),
    "GLM-2B's untrained head": lambda folder, state: torch.save(
        state
        | {f"{name}.weight": torch.ones(3, 3) for name in ("dense", "out_proj")}
        | {f"glm.{name}.bias": torch.ones(3) for name in ("dense", "out_proj")},
        folder / "pytorch_model.bin",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_found(glm: tuple[Any, State, Path], layout: str) -> None:
    model, state, folder = glm
    LAYOUTS[layout](folder, state)
    assert equal(GLMModel.from_pretrain(folder), model)


@pytest.mark.parametrize("place", ["model/pytorch_model.bin", "150000", "150000/mp_rank_00_model_states.pt", "part2"])
def test_files_and_folders_can_be_named_directly(glm: tuple[Any, State, Path], place: str) -> None:
    model, state, folder = glm
    path = folder.parent / place
    path.parent.mkdir(exist_ok=True)
    if path.suffix or place == "part2":
        torch.save(state, path)
    else:
        save_each(path, {"mp_rank_00_model_states.pt": {"module": state}})
    other = GLMModel(model.config)
    other.load_weights(path)
    assert equal(other, model)


def test_a_state_dict_may_have_the_names_of_a_file(glm: tuple[Any, State, Path]) -> None:
    """Scripts for the original load so: model.load_state_dict(torch.load(path)["module"])."""
    model, state, folder = glm
    torch.save({"module": {f"module.{name}": tensor for name, tensor in state.items()}}, folder / "x.bin")
    other = GLMModel(model.config)
    result = other.load_state_dict(torch.load(folder / "x.bin")["module"])
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert equal(other, model)
    with pytest.raises(LoadError, match=r"state dict does not fit(.|\n)*missing"):
        other.load_state_dict(dict(list(state.items())[1:]))
    own = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    assert other.load_state_dict(own) == ([], [])
    assert not any(parameter.any() for parameter in other.parameters())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(dict(list(own.items())[1:]))


def test_an_index_can_be_named_directly(glm: tuple[Any, State, Path]) -> None:
    model, state, folder = glm
    LAYOUTS["odd shard names"](folder, state)
    other = GLMModel(model.config)
    other.load_weights(folder / "model.safetensors.index.json")
    assert equal(other, model)


# -- model-parallel parts ---------------------------------------------------------------------------------------


def part_of(name: str, tensor: torch.Tensor, rank: int, count: int) -> torch.Tensor:
    """What the original's splitting tool gives one rank."""
    if "query_key_value" in name:
        return torch.cat([third.chunk(count)[rank] for third in tensor.chunk(3)])
    if "word_embeddings" in name or "dense_h_to_4h" in name:
        return tensor.chunk(count)[rank]
    if name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
        return tensor.chunk(count, 1)[rank].contiguous()
    return tensor


def parts(state: State, count: int) -> list[State]:
    return [{name: part_of(name, tensor, rank, count) for name, tensor in state.items()} for rank in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "kind", ["pytorch_model_{:02}.bin", "pytorch_model_{}.bin", "150000/mp_rank_{:02}_model_states.pt"]
)
def test_parts_are_joined(glm: tuple[Any, State, Path], kind: str, count: int) -> None:
    model, state, folder = glm
    (folder / "150000").mkdir()
    (folder / "latest").write_text("150000")
    for rank, part in enumerate(parts(state, count)):
        names = dict.fromkeys(state) if kind.startswith("pytorch") else {"mp_world_size": count}
        torch.save(names | {"module": part}, folder / kind.format(rank))
    assert equal(GLMModel.from_pretrain(folder), model)
    live = GLMModel(model.config)
    live.load_weights(folder)
    assert equal(live, model)


def test_parts_of_parameters_are_joined(glm: tuple[Any, State, Path]) -> None:
    model, state, folder = glm
    for rank, part in enumerate(parts(state, 2)):
        torch.save(
            {name: torch.nn.Parameter(tensor) for name, tensor in part.items()}, folder / f"pytorch_model_0{rank}.bin"
        )
    assert equal(GLMModel.from_pretrain(folder), model)


# -- names ------------------------------------------------------------------------------------------------------

PREFIXES = {
    "GLMModel": ["", "module.", "model.", "glm.", "module.model.", "module.glm.", "module.module.model."],
    "BertModel": ["", "module.", "model.", "bert.", "roberta.", "module.bert.", "model.bert.", "module.model.bert."],
    "GPT2Model": [
        "",
        "module.",
        "model.",
        "transformer.",
        "module.model.",
        "model.transformer.",
        "module.transformer.",
    ],
}


@pytest.mark.parametrize(("name", "prefix"), [(name, prefix) for name in PREFIXES for prefix in PREFIXES[name]])
def test_prefixes_do_not_matter(tmp_path: Path, name: str, prefix: str) -> None:
    # This prefix says that positions count from 2, which a configuration must not contradict.
    model = saved(tmp_path, name, **({"position_offset": 2} if "roberta" in prefix else {}))
    state = {
        prefix + key.removeprefix(model.prefixes.get("flagai", "")): value for key, value in tensors(tmp_path).items()
    }
    save_file(state, tmp_path / "model.safetensors")
    assert equal(type(model).from_pretrain(tmp_path), model)


@pytest.mark.parametrize(("prefix", "offset"), [("roberta.", 0), ("bert.", 2)])
def test_the_advice_about_positions_is_right(tmp_path: Path, prefix: str, offset: int) -> None:
    model = saved(tmp_path, "BertModel", position_offset=offset)
    own = model.prefixes.get("flagai", "")
    state = {prefix + key.removeprefix(own): value for key, value in tensors(tmp_path).items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(
        ConfigError, match=f"position_offset is {offset}, but the weights are called {prefix}"
    ) as caught:
        type(model).from_pretrain(tmp_path)
    advice = dict(re.findall(r"(position_offset|pad_token_id)=(\d+)", str(caught.value)))
    settings = {name: int(value) for name, value in advice.items()}
    assert type(model).from_pretrain(tmp_path, **settings).config.position_offset == 2 - offset


@pytest.mark.parametrize("layout", ["flagai", "huggingface"])
def test_old_spellings_of_layer_norms_are_read(tmp_path: Path, layout: str) -> None:
    model = saved(tmp_path, "BertForMaskLM", layout=layout)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors(tmp_path).items()
    }
    assert any(name.endswith("gamma") for name in old)
    save_file(old, tmp_path / "model.safetensors")
    assert equal(type(model).from_pretrain(tmp_path), model)


@pytest.mark.parametrize("layout", ["flagai", "huggingface"])
@pytest.mark.parametrize("name", ["GLMModel", "BertForMaskLM", "GPT2Model", "T5Model"])
def test_the_order_of_names_does_not_matter(tmp_path: Path, name: str, layout: str) -> None:
    model = saved(tmp_path, name, layout=layout)
    items = list(tensors(tmp_path).items())
    random.Random(0).shuffle(items)
    (tmp_path / "model.safetensors").unlink()
    torch.save(dict(items), tmp_path / "pytorch_model.bin")
    assert equal(type(model).from_pretrain(tmp_path), model)


@pytest.mark.parametrize("inner", [20, 48, 12])
@pytest.mark.parametrize("linear", [False, True])
def test_gpt2_matrices_are_read_both_ways_round(tmp_path: Path, linear: bool, inner: int) -> None:
    model = saved(tmp_path, "GPT2Model", n_inner=inner)
    turned = {
        name: tensor.T.contiguous() if linear and ".h." in name and tensor.dim() == 2 else tensor
        for name, tensor in tensors(tmp_path).items()
    }
    save_file(turned, tmp_path / "model.safetensors")
    assert equal(GPT2Model.from_pretrain(tmp_path), model)


# Buffers that transformers saved in one of its versions.
BUFFERS: dict[str, dict[str, torch.Tensor]] = {
    "BertModel": {
        "embeddings.position_ids": torch.arange(40)[None],
        "bert.embeddings.token_type_ids": torch.zeros(1, dtype=torch.long).expand(1, 40),
    },
    "GPT2Model": {
        "h.0.attn.bias": torch.ones(1, 1, 40, 40, dtype=torch.uint8),
        "transformer.h.1.attn.masked_bias": torch.tensor(-1e4),
    },
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_of_older_versions_are_left_out(tmp_path: Path, name: str) -> None:
    model = saved(tmp_path, name)
    torch.save(tensors(tmp_path) | BUFFERS[name], tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert equal(type(model).from_pretrain(tmp_path), model)


# -- memory and types -------------------------------------------------------------------------------------------


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_weights_are_used_where_the_file_is_mapped(glm: tuple[Any, State, Path], layout: str) -> None:
    _, state, folder = glm
    LAYOUTS[layout](folder, state)
    model = GLMModel.from_pretrain(folder)
    file = next(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    # Linux lists every mapping of a file; all parameters must lie in one of them.
    spans = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(file))
    ]
    assert spans
    for parameter in model.parameters():
        assert any(begin <= parameter.data_ptr() < end for begin, end in spans)
    attention = model.blocks[0].attention
    assert storage(attention.q.weight) == storage(attention.k.weight) == storage(attention.v.weight)
    assert attention.k.weight.data_ptr() - attention.q.weight.data_ptr() == attention.q.weight.nbytes


def test_training_does_not_touch_the_file(glm: tuple[Any, State, Path]) -> None:
    _, state, folder = glm
    LAYOUTS["safetensors"](folder, state)
    before = (folder / "model.safetensors").read_bytes()
    model = GLMModel.from_pretrain(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (folder / "model.safetensors").read_bytes() == before
    assert not equal(GLMModel.from_pretrain(folder), model)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [None, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 2])
def test_types_are_kept_or_cast(
    glm: tuple[Any, State, Path], stored: torch.dtype, wanted: torch.dtype | None, count: int
) -> None:
    model, state, folder = glm
    for rank, part in enumerate(parts(state, count)):
        torch.save({name: tensor.to(stored) for name, tensor in part.items()}, folder / f"pytorch_model_0{rank}.bin")
    loaded = GLMModel.from_pretrain(folder, dtype=wanted)
    assert equal(loaded, model.to(stored).to(wanted or stored))


def test_the_most_frequent_type_wins(tmp_path: Path) -> None:
    saved(tmp_path, "BertModel")
    state = {name: tensor if "LayerNorm" in name else tensor.half() for name, tensor in tensors(tmp_path).items()}
    save_file(state, tmp_path / "model.safetensors")
    model = BertModel.from_pretrain(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_cast_or_refused_with_the_cure(tmp_path: Path, kind: torch.dtype) -> None:
    saved(tmp_path, "BertModel")
    state = {name: tensor if "LayerNorm" in name else tensor.to(kind) for name, tensor in tensors(tmp_path).items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{str(kind).removeprefix('torch.')}.*dtype='bfloat16'"):
        BertModel.from_pretrain(tmp_path)
    model = BertModel.from_pretrain(tmp_path, dtype="bfloat16")
    assert torch.equal(model.pooler.dense.weight, state["pooler.dense.weight"].bfloat16())
