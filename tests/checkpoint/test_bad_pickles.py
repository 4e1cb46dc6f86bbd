"""Pickles: whatever is in them, nothing is executed, and what is no plain tensor is refused by name."""

import argparse
import builtins
import os
import pickle
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import CheckpointError
from tests.checkpoint.making import WEIGHTS, refused, repack, write, write_archive


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def attacks(marker: Path) -> dict[str, tuple[Any, str]]:
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    return {
        "system": (Calls(os.system, command), "posix.system"),
        "eval": (Calls(eval, code), "eval"),
        "exec": (Calls(exec, code), "exec"),
        "open": (Calls(builtins.open, str(marker), "w"), "open"),
        "getattr": (Calls(getattr, "", "join"), "getattr"),
        "loads": (Calls(pickle.loads, pickle.dumps(Calls(os.system, command))), "pickle.loads"),
        "torch.load": (Calls(torch.load, str(marker)), "torch.serialization.load"),
        "path": (marker, "pathlib"),
        "whole model": (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    }


@pytest.mark.parametrize("kind", ["zip.bin", "legacy.bin"])
@pytest.mark.parametrize("attack", attacks(Path()))
def test_a_malicious_pickle_is_named_and_not_run(tmp_path: Path, kind: str, attack: str) -> None:
    marker = tmp_path / "executed"
    payload, wanted = attacks(marker)[attack]
    path = write(tmp_path / kind, {"module": WEIGHTS, "optimizer": payload})
    with refused(str(path), wanted, "nothing was run", kind=CheckpointError):
        open_checkpoint(path)
    assert not marker.exists()


OPCODES = {
    "NEWOBJ": (b"\x80\x02csubprocess\nPopen\n]X\x05\x00\x00\x00touche\x85\x81.", "subprocess.Popen"),
    "INST": (b"(S'touch {0}'\nios\nsystem\n.", ""),
    "OBJ": (b"(cposix\nsystem\nS'touch {0}'\no.", "posix.system"),
    "BUILD": (b"\x80\x02cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00xcposix\nsystem\nsb.", "posix.system"),
    "STACK_GLOBAL": (b"\x80\x02X\x05\x00\x00\x00posixX\x06\x00\x00\x00system\x93.", ""),
    "EXT1": (b"\x80\x02\x82\x01)R.", ""),
    "REDUCE of a method": (b"\x80\x02c_codecs\nencode\n)R.", ""),
    "factory": (b"\x80\x02ccollections\ndefaultdict\ncposix\nsystem\n\x85R.", "collections.defaultdict"),
    "persistent id": (b"\x80\x02X\x01\x00\x00\x00aQ.", ""),
    "module": (b"\x80\x02(X\x06\x00\x00\x00modulecposix\nsystem\nNNtQ.", "posix.system"),
}


@pytest.mark.parametrize(("opcodes", "wanted"), OPCODES.values(), ids=OPCODES)
def test_every_way_to_call_is_refused(tmp_path: Path, opcodes: bytes, wanted: str) -> None:
    marker = tmp_path / "executed"
    opcodes = opcodes.replace(b"{0}", str(marker).encode())
    path = write_archive(tmp_path / "pytorch_model.bin", opcodes)
    with refused(str(path), wanted, kind=CheckpointError):
        open_checkpoint(path)
    path.write_bytes(opcodes)  # as a plain pickle
    with refused(str(path), kind=CheckpointError):
        open_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["zip.bin", "legacy.bin"])
def test_harmless_objects_beside_the_weights_are_dropped_unbuilt(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = {
        "module": WEIGHTS,
        "args": argparse.Namespace(lr=1e-4, nested=argparse.Namespace(x=[1])),
        "random_rng_state": (3, (1, 2), None),
        "np_rng_state": np.random.RandomState(0).get_state(),
        "loss": np.float64(1.5),
        "iteration": 7,
    }
    path = write(tmp_path / kind, dump)
    called: list[str] = []
    for name in ("_reconstruct", "scalar"):
        monkeypatch.setattr(np._core.multiarray, name, lambda *_: called.append("numpy"))
    monkeypatch.setattr(argparse.Namespace, "__init__", lambda *_, **__: called.append("argparse"))
    checkpoint = open_checkpoint(path)
    assert set(checkpoint) == set(WEIGHTS)
    assert not called


SCALERS = (
    "fp16.loss_scaler.DynamicLossScaler",
    "flagai.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "apex.fp16_utils.loss_scaler.DynamicLossScaler",
)


@pytest.mark.parametrize("kind", ["zip.bin", "legacy.bin"])
@pytest.mark.parametrize("name", SCALERS)
def test_dumps_of_mixed_precision_are_read_and_nothing_is_imported(
    tmp_path: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, kept = name.rpartition(".")
    scaler = type(kept, (), {"__module__": module})
    for part in range(1, len(module.split(".")) + 1):
        package = ".".join(module.split(".")[:part])
        if package not in sys.modules or part == len(module.split(".")):
            monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    setattr(sys.modules[module], kept, scaler)
    state = scaler()
    state.cur_scale = 65536.0
    path = write(tmp_path / kind, {"module": WEIGHTS, "optimizer": {"loss_scaler": state, "overflow": False}})
    monkeypatch.delattr(sys.modules[module], kept)
    assert set(open_checkpoint(path)) == set(WEIGHTS)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("new", [True, False])
def test_every_protocol_is_read(tmp_path: Path, protocol: int, new: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    content = {"module": WEIGHTS, "set": {1}, "frozen": frozenset("a"), "bytes": b"b", "long": 2**70, "none": None}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    checkpoint = open_checkpoint(path)
    assert {name: checkpoint.tensors(name)[0].tolist() for name in checkpoint} == {
        name: tensor.tolist() for name, tensor in WEIGHTS.items()
    }


TYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(torch.bool, torch.complex64, torch.complex128),
)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("new", [True, False])
def test_every_dtype_is_read_as_it_was_saved(tmp_path: Path, dtype: torch.dtype, new: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    whole = torch.arange(48, dtype=torch.uint8).view(-1, 16).remainder(2).view(dtype)
    content = {"whole": whole, "turned": whole.T, "window": whole[1:], "none": whole[:0], "one": whole[2, 0]}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    checkpoint = open_checkpoint(path)
    for name, tensor in content.items():
        read = checkpoint.tensors(name)[0]
        assert (read.dtype, read.shape, read.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
        assert bytes(read.contiguous().flatten().view(torch.uint8)) == bytes(
            tensor.contiguous().flatten().view(torch.uint8)
        )


@pytest.mark.parametrize("kind", ["zip.bin", "legacy.bin"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": 1, "b": "text"}, "no tensors"),
        ({}, "no tensors"),
        ([torch.ones(2)], "list"),
        (torch.ones(2), "Tensor"),
        ({"module": {"a": None}}, "no tensors"),
        ({3: torch.ones(2)}, "no tensors"),
        ({"a": torch.ones(2), "odd": torch.eye(3).to_sparse()}, "'odd'"),
        ({"a": torch.ones(2), "odd": torch.ones(2, device="meta")}, "'odd'"),
    ],
    ids=["numbers", "empty", "list", "tensor", "nothing wrapped", "numbered", "sparse", "meta"],
)
def test_pickles_without_plain_tensors_are_refused(tmp_path: Path, kind: str, content: Any, words: str) -> None:
    path = write(tmp_path / kind, content)
    with refused(str(path), words, kind=CheckpointError):
        open_checkpoint(path)


@pytest.mark.parametrize("name", ["qint8", "quint8", "qint32", "quint4x2", "quint2x4"])
def test_dtypes_that_torch_cannot_view_are_refused_by_name(tmp_path: Path, name: str) -> None:
    """A view of a file as a quantized tensor ends the process."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({"odd": torch.ones(2, 2, dtype=torch.uint16)}, path)
    changed = repack(
        path, tmp_path / "changed.bin", lambda _, old: old.replace(b"torch\nuint16\n", f"torch\n{name}\n".encode())
    )
    with refused(str(changed), "'odd'", name, kind=CheckpointError):
        open_checkpoint(changed)


def test_parameters_are_read_as_plain_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "zip.bin", {"a": torch.nn.Parameter(torch.ones(2))})
    assert not open_checkpoint(path).tensors("a")[0].requires_grad


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """Mapping it would take the compressed bytes for weights."""
    path = write(tmp_path / "zip.bin", {"a": torch.randn(4000)})
    deflated = repack(path, tmp_path / "pytorch_model.bin", lambda _, content: content, zipfile.ZIP_DEFLATED)
    with refused(str(deflated), "compressed", kind=CheckpointError):
        open_checkpoint(deflated)


def test_a_short_record_does_not_borrow_from_the_next(tmp_path: Path) -> None:
    path = write(tmp_path / "zip.bin", {"a": torch.ones(100), "b": torch.zeros(500)})
    short = repack(path, tmp_path / "pytorch_model.bin", lambda name, old: old[:40] if "/data/0" in name else old)
    with refused(str(short), "'a'", kind=CheckpointError):
        open_checkpoint(short)


def test_an_archive_of_many_names_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "pytorch_model.bin", b"\x80\x02}.", **{f"data/{n}": b"" for n in range(3000)})
    with refused(str(path), kind=CheckpointError):
        open_checkpoint(path)


def test_an_archive_with_two_contents_is_refused(tmp_path: Path) -> None:
    """Which of them counts would depend on the reader."""
    path = write(tmp_path / "zip.bin", WEIGHTS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"\x80\x02}.")
    with refused(str(path), "same name", kind=CheckpointError):
        open_checkpoint(path)


def test_a_tar_file_is_refused_and_not_unpacked(tmp_path: Path) -> None:
    inside = write(tmp_path / "storages")
    with tarfile.open(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.add(inside, "../storages")
    before = sorted(tmp_path.parent.rglob("*"))
    with refused("pytorch_model.bin", kind=CheckpointError):
        open_checkpoint(tmp_path)
    assert sorted(tmp_path.parent.rglob("*")) == before
