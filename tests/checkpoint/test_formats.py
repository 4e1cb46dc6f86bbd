"""Every layout in circulation is found and gives the same model, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.errors import LoadError
from flagai.model.glm_model import GLMModel
from tests.checkpoint.layouts import LAYOUTS, State, parts, save_each
from tests.checkpoint.making import equal


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


# -- memory and types -------------------------------------------------------------------------------------------
