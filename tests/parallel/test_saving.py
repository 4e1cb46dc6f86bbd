"""Saving from any layout writes ordinary files; distributed checkpoints change their number of ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from flagai.errors import CheckpointError, FlagAIError
from flagai.model.glm_model import GLMModel
from flagai.parallel.world import make_mesh, world
from tests import tiny
from tests.checkpoint.making import saved, tensors
from tests.parallel.comparing import SHARED
from tests.parallel.ranks import on_ranks

MODELS = ("BertForMaskLM", "GLMModel", "GPT2Model", "T5Model")
LAYOUTS = ("flagai", "huggingface")


def save_everything(root: Path, dimensions: dict[str, int], fsdp: bool) -> None:
    mesh = make_mesh(**dimensions)
    for name in MODELS:
        for layout in LAYOUTS:
            model = tiny.CLASSES[name].from_pretrained(root / name / layout, mesh=mesh, fsdp=fsdp)
            model.save_pretrained(root / "again" / name / layout, layout=layout, max_shard_size="4KB")
            model.save_weights(root / "again" / f"{name}-{layout}.bin", layout=layout)
            model.save_config(root / "again" / f"{name}-{layout}.json")


@pytest.mark.parametrize(
    ("dimensions", "fsdp"),
    [
        ({"tp": 2}, False),
        ({"dp": 2, "tp": 2}, True),
        pytest.param({"dp": 2, "tp": 1}, False, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_saved_files_equal_those_that_were_loaded(tmp_path: Path, dimensions: dict[str, int], fsdp: bool) -> None:
    for name in MODELS:
        for layout in LAYOUTS:
            saved(tmp_path / name / layout, name, layout=layout, **SHARED[tiny.CLASSES[name].config_class.family])
    on_ranks(dimensions.get("dp", 1) * dimensions["tp"], save_everything, tmp_path, dimensions, fsdp)
    for name in MODELS:
        for layout in LAYOUTS:
            expected = tensors(tmp_path / name / layout)
            folder = tmp_path / "again" / name / layout
            assert len(list(folder.glob("*.safetensors"))) > 1
            written = torch.load(tmp_path / "again" / f"{name}-{layout}.bin")
            again = {key: value for file in folder.glob("*.safetensors") for key, value in load(file).items()}
            for found in (again, written):
                assert found.keys() == expected.keys()
                assert all(torch.equal(found[key], value) for key, value in expected.items())
            assert (folder / "config.json").read_bytes() == (tmp_path / name / layout / "config.json").read_bytes()
            assert (tmp_path / "again" / f"{name}-{layout}.json").is_file()


def load(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    loaded: dict[str, torch.Tensor] = load_file(file)
    return loaded


def fail_to_save(root: Path) -> str:
    model = GLMModel.from_pretrained(root / "model", mesh=make_mesh(tp=2))
    with pytest.raises((OSError, FlagAIError)) as caught:
        model.save_pretrained(root / "file" / "folder")
    model.save_pretrained(root / "good")  # nobody waits for a rank that gave up
    return f"{type(caught.value).__name__}: {caught.value}"


def test_a_failed_save_fails_on_every_rank_and_none_waits(tmp_path: Path) -> None:
    saved(tmp_path / "model", **SHARED["glm"])
    (tmp_path / "file").touch()
    first, second = on_ranks(2, fail_to_save, tmp_path)
    assert second.startswith(f"{CheckpointError.__name__}: The first rank could not save")
    assert first.partition(":")[0] in second
    assert (tmp_path / "good" / "model.safetensors").is_file()


# -- distributed checkpoints --------------------------------------------------------------------------------------


def step(model: Any, optimizer: torch.optim.Optimizer) -> None:
    model(**tiny.batch("GLMModel"))["loss"].backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    optimizer.zero_grad()


def train(root: Path, dimensions: dict[str, int] | None, fsdp: bool, *, begin: bool) -> None:
    """The first step and a distributed checkpoint; or that checkpoint, the second step, and ordinary files."""
    mesh = make_mesh(**dimensions) if dimensions else None
    model = GLMModel.from_pretrained(root / "model", mesh=mesh, fsdp=fsdp)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    if begin:
        step(model, optimizer)
        weights, moments = get_state_dict(model, optimizer)
        distributed_checkpoint.save({"model": weights, "optimizer": moments}, checkpoint_id=root / "distributed")
        return
    weights, moments = get_state_dict(model, optimizer)
    distributed_checkpoint.load({"model": weights, "optimizer": moments}, checkpoint_id=root / "distributed")
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    step(model, optimizer)
    model.save_pretrained(root / f"after-{world().size}")


def test_a_training_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    alone = saved(tmp_path / "model", spell_length=2, **SHARED["glm"])
    optimizer = torch.optim.AdamW(alone.parameters(), lr=0.01)
    step(alone, optimizer)
    step(alone, optimizer)
    on_ranks(4, train, tmp_path, {"dp": 2, "tp": 2}, True, begin=True)
    on_ranks(2, train, tmp_path, {"tp": 2}, False, begin=False)
    on_ranks(1, train, tmp_path, None, False, begin=False)
    for count in (1, 2):
        model = GLMModel.from_pretrained(tmp_path / f"after-{count}")
        for (name, got), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
            if not name.endswith("attention.k.bias"):  # its gradient is zero but for rounding, which AdamW magnifies
                assert (got - expected).abs().max() <= 1e-4, name
