"""Loading into shards: each rank reads its part, whatever the format; wrong meshes are refused."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import CheckpointError, ConfigError, InputError
from flagai.model import opening
from flagai.model.bert_model import BertForMaskLM
from flagai.model.glm_model import GLMModel
from flagai.model.gpt2_model import GPT2Model
from flagai.parallel import dtensor
from flagai.parallel.sharding import read_sharding
from flagai.parallel.world import make_mesh
from tests import tiny
from tests.checkpoint.layouts import parts
from tests.checkpoint.making import saved, tensors
from tests.parallel.comparing import SHARED
from tests.parallel.ranks import on_ranks

# Four heads, so that four ranks can share them; an odd number of tokens.
FAMILIES = ("BertForMaskLM", "GLMModel", "GPT2Model", "T5Model")
GLM = {"vocab_size": 45, "hidden_size": 16, "num_attention_heads": 4}


def holds(model: Any, reference: Any, cut: bool = True) -> None:
    """Every rank holds the part that is its own of every parameter, bit for bit."""
    expected = dict(reference.named_parameters())
    got = dict(model.named_parameters())
    assert got.keys() == expected.keys()
    for name, parameter in got.items():
        whole = expected[name].detach()
        part = dtensor.local(parameter.detach())
        assert torch.equal(part, whole[dtensor.local_slices(parameter) or ...]), name
        if cut and parameter.dim() == 2 and ".blocks." in f".{name}":
            assert part.numel() * 2 <= whole.numel(), f"{name} is not cut"


# -- model-parallel parts -----------------------------------------------------------------------------------------


def load_parts(root: Path, reference: Any, tp: int) -> None:
    mesh = make_mesh(tp=tp)
    for folder in sorted(root.iterdir()):
        holds(GLMModel.from_pretrain(folder, mesh=mesh), reference)
        live = GLMModel.from_pretrain(folder, mesh=mesh, only_download_config=True)
        live.load_weights(folder)
        holds(live, reference)


@pytest.mark.parametrize("tp", [2, 4])
def test_parts_of_m_ranks_load_on_n(tmp_path: Path, tp: int) -> None:
    """The original rewrites the files with a tool when the number of cards changes."""
    reference = saved(tmp_path / "model", **GLM | {"vocab_size": 48})
    state = tensors(tmp_path / "model")
    for count in (1, 2, 4):
        folder = tmp_path / "parts" / str(count)
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes((tmp_path / "model" / "config.json").read_bytes())
        for rank, part in enumerate(parts(state, count)):
            torch.save({"module": part}, folder / f"pytorch_model_{rank:02}.bin")
    on_ranks(tp, load_parts, tmp_path / "parts", reference, tp)


# -- one model on all ranks ---------------------------------------------------------------------------------------


def load_different(root: Path) -> None:
    mesh = make_mesh(tp=2)
    rank = distributed.get_rank()
    with pytest.raises(CheckpointError, match="different models"):
        GLMModel.from_pretrain(root / str(rank), mesh=mesh)
    live = GLMModel.from_pretrain(root / "0", mesh=mesh)
    with pytest.raises(CheckpointError, match="different models"):
        live.load_weights(root / str(rank))
    holds(live, tiny.build("GLMModel", 0, **GLM))
    with pytest.raises(CheckpointError, match="Another process" if rank else "damaged"):
        GLMModel.from_pretrain(root / ("1" if rank else "damaged"), mesh=mesh)


def test_ranks_that_find_different_models_all_refuse(tmp_path: Path) -> None:
    for seed in (0, 1):
        tiny.build("GLMModel", seed, **GLM).save_pretrained(tmp_path / str(seed))
    shutil.copytree(tmp_path / "1", tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"damaged")
    on_ranks(2, load_different, tmp_path)


def load_while_saved(folder: Path) -> None:
    """The first rank opens the old files; only then the second one looks, when the folder is exchanged."""
    mesh = make_mesh(tp=2)
    rank, flag, first = distributed.get_rank(), folder.with_name("opened"), iter([True])

    def opened(*given: Any, **options: Any) -> Any:
        if rank == 1 and next(first, False):
            while not flag.exists():
                time.sleep(0.01)
            tiny.build("GLMModel", 1, **GLM).save_pretrained(folder)
        found = open_checkpoint(*given, **options)
        flag.touch()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "open_checkpoint", opened)
        holds(GLMModel.from_pretrain(folder, mesh=mesh), tiny.build("GLMModel", 1, **GLM))


def test_ranks_open_again_what_was_saved_meanwhile(tmp_path: Path) -> None:
    tiny.build("GLMModel", 0, **GLM).save_pretrained(tmp_path / "model")
    on_ranks(2, load_while_saved, tmp_path / "model")


# -- what is read -------------------------------------------------------------------------------------------------


def count_bytes(folder: Path, dimensions: dict[str, int]) -> tuple[int, int]:
    """Bytes asked of the reader, and bytes of parameters that all ranks of tp hold."""
    sharding = read_sharding(make_mesh(**dimensions), fsdp="dp" in dimensions, device=torch.device("cpu"))
    model = GLMModel.on_meta(GLMModel.config_class.from_json(folder / "config.json"), sharding=sharding)
    report = model.load_checkpoint(open_checkpoint(folder))
    copies = [parameter for parameter in model.parameters() if parameter.placements[-1].is_replicate()]
    return report.bytes_asked, sum(parameter.numel() * parameter.element_size() for parameter in copies)


@pytest.mark.parametrize("dimensions", [{"tp": 2}, {"dp": 2, "tp": 1}, {"dp": 2, "tp": 2}], ids=str)
def test_together_the_ranks_ask_for_each_byte_once(tmp_path: Path, dimensions: dict[str, int]) -> None:
    saved(tmp_path, **GLM)
    size = sum(tensor.nbytes for tensor in tensors(tmp_path).values())
    answers = on_ranks(dimensions.get("dp", 1) * dimensions["tp"], count_bytes, tmp_path, dimensions)
    copied = answers[0][1]  # norms and positions
    assert sum(asked for asked, _ in answers) == size + (dimensions["tp"] - 1) * copied
    assert copied < 0.3 * size
    assert max(asked for asked, _ in answers) <= 1.1 * size / len(answers) + copied


def mapped(folder: Path) -> tuple[int, int, int]:
    """Bytes of parameters that lie in the mapped file, of columns (copied out), and of anything else."""
    model = GLMModel.from_pretrain(folder, mesh=make_mesh(tp=2))
    spans = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(folder / "model.safetensors"))
    ]
    found = {"file": 0, "columns": 0, "else": 0}
    for name, parameter in model.named_parameters():
        part = dtensor.local(parameter.detach())
        inside = any(begin <= part.data_ptr() < end for begin, end in spans)
        column = name.endswith(("out.weight", "down.weight"))
        found["file" if inside else "columns" if column else "else"] += part.nbytes
    return found["file"], found["columns"], found["else"]


def test_row_shards_are_used_where_the_file_is_mapped(tmp_path: Path) -> None:
    saved(tmp_path, **GLM)
    size = sum(tensor.nbytes for tensor in tensors(tmp_path).values())
    for in_file, columns, other in on_ranks(2, mapped, tmp_path):
        assert other == 0
        assert in_file > 0.4 * size
        assert 0 < columns < 0.2 * size


# -- types --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def cast(root: Path) -> None:
    mesh = make_mesh(tp=2)
    for name in FAMILIES:
        for dtype in ("bfloat16", "float16"):
            alone = tiny.CLASSES[name].from_pretrained(root / name, dtype=dtype)
            shared = tiny.CLASSES[name].from_pretrained(root / name, dtype=dtype, mesh=mesh)
            types = {key: value.dtype for key, value in alone.named_parameters()}
            assert types == {key: value.dtype for key, value in shared.named_parameters()}, name
            arguments = {key: value for key, value in tiny.batch(name).items() if key != "prompt_pos"}
            got, expected = shared(**arguments)["logits"], alone(**arguments)["logits"]
            assert got.dtype is expected.dtype
            assert (got - expected).abs().max() <= 0.05 * expected.abs().max(), name


def test_shards_are_cast_as_the_whole_is(tmp_path: Path) -> None:
    for name in FAMILIES:
        saved(tmp_path / name, name, **SHARED[tiny.CLASSES[name].config_class.family])
    on_ranks(2, cast, tmp_path)


# -- values of their own -------------------------------------------------------------------------------------------


def untie(folder: Path) -> None:
    alone = BertForMaskLM.from_pretrain(folder, tie_word_embeddings=False)
    mesh = make_mesh(tp=2)
    for tie in (True, False):
        shared = BertForMaskLM.from_pretrain(folder, mesh=mesh, tie_word_embeddings=tie)
        assert not shared.config.tie_word_embeddings
        holds(shared, alone)
    sharding: dict[str, Any] = {"mesh": make_mesh(dp=2, tp=1), "fsdp": True}
    holds(BertForMaskLM.from_pretrain(folder, tie_word_embeddings=False, **sharding), alone)
    with pytest.raises(ConfigError, match="tie_word_embeddings=False"):
        BertForMaskLM.from_pretrain(folder, tie_word_embeddings=True, **sharding)


def test_two_values_for_tied_weights_are_cut_too(tmp_path: Path) -> None:
    saved(tmp_path, "BertForMaskLM", tie_word_embeddings=False, **SHARED["bert"])
    on_ranks(2, untie, tmp_path)


# -- errors -------------------------------------------------------------------------------------------------------


WRONG: dict[str, tuple[dict[str, int], list[str]]] = {
    "heads": ({}, ["3 attention heads", "2 ranks", "1, 3"]),
    "inner": ({"n_head": 4, "n_inner": 21}, ["21 inner features", "2 ranks", "1, 3, 7, 21"]),
    "tokens": ({"n_head": 4, "vocab_size": 1}, ["1 tokens are too few"]),
}


def refuse(root: Path) -> None:
    mesh = make_mesh(tp=2)
    for name, (_, words) in WRONG.items():
        with pytest.raises(ConfigError) as caught:
            GPT2Model.from_pretrain(root / name, mesh=mesh)
        assert all(word in str(caught.value) for word in words), caught.value
    for wrong, words in (
        ("tp", ["mesh='tp'", "make_mesh"]),
        (init_device_mesh("cpu", (2,)), ["[]", "'dp', 'tp'"]),
        (init_device_mesh("cpu", (2,), mesh_dim_names=("model",)), ["['model']", "make_mesh"]),
    ):
        with pytest.raises(InputError) as refused:
            GPT2Model.from_pretrain(root / "heads", mesh=wrong)
        assert all(word in str(refused.value) for word in words), refused.value
    with pytest.raises(InputError, match="dimension dp"):
        GPT2Model.from_pretrain(root / "heads", mesh=mesh, fsdp=True)
    with pytest.raises(InputError, match="fsdp='full'"):
        GPT2Model.from_pretrain(root / "heads", mesh=mesh, fsdp="full")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs 6 processes, but there are 2"):
        make_mesh(dp=2, tp=3)
    with pytest.raises(InputError, match="has no processes"):
        make_mesh(dp=0)


def test_wrong_meshes_are_refused(tmp_path: Path) -> None:
    for name, (changes, _) in WRONG.items():
        saved(tmp_path / name, "GPT2Model", **changes)
    on_ranks(2, refuse, tmp_path)


def test_fsdp_needs_a_mesh(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mesh='auto'"):
        GPT2Model.from_pretrain(tmp_path, fsdp=True)


def test_auto_without_torchrun_is_an_ordinary_load(tmp_path: Path) -> None:
    model = saved(tmp_path, **GLM)
    alone = GLMModel.from_pretrain(tmp_path, mesh="auto")
    assert alone.sharding is None
    assert not any(dtensor.is_sharded(parameter) for parameter in alone.parameters())
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), model.parameters(), strict=True))


def load_auto(folder: Path) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    shared = GLMModel.from_pretrain(folder, mesh="auto")
    sharded = GLMModel.from_pretrain(folder, mesh="auto", fsdp=True)
    assert shared.sharding is not None
    assert sharded.sharding is not None
    return shared.sharding.mesh.mesh_dim_names, shared.sharding.mesh.size(), sharded.sharding.mesh.mesh_dim_names


def test_auto_shares_the_model_among_the_processes_of_a_machine(tmp_path: Path) -> None:
    saved(tmp_path, **GLM)
    for names, size, sharded in on_ranks(2, load_auto, tmp_path):
        assert (names, size) == (("tp",), 2)
        assert sharded[0] == "dp"
