"""Pickles: whatever is in them, nothing is executed, and what is no plain tensor is refused by name."""

import argparse
import builtins
import os
import pickle
import tarfile
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


def test_a_tar_file_is_refused_and_not_unpacked(tmp_path: Path) -> None:
    inside = write(tmp_path / "storages")
    with tarfile.open(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.add(inside, "../storages")
    before = sorted(tmp_path.parent.rglob("*"))
    with refused("pytorch_model.bin", kind=CheckpointError):
        open_checkpoint(tmp_path)
    assert sorted(tmp_path.parent.rglob("*")) == before
