"""Weights are used where their file is mapped, and keep their type or are cast."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flagai.errors import CheckpointError
from flagai.model.bert_model import BertModel
from flagai.model.glm_model import GLMModel
from tests.checkpoint.layouts import LAYOUTS, State, parts
from tests.checkpoint.making import equal, saved, tensors


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
