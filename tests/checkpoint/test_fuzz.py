"""Whatever bytes a reader meets, it loads them or says what is wrong; it never executes, writes or connects."""

import argparse
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from flagai.checkpoint.reader import open_checkpoint
from flagai.convert import convert
from flagai.doctor import examine
from flagai.errors import ConfigError, FlagAIError
from flagai.model.glm_model import GLMConfig, GLMModel
from tests.checkpoint.making import saved
from tests.checkpoint.watching import nothing_happens

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
NAMES = ("model.safetensors", "pytorch_model.bin", "legacy.bin", "mp_rank_00_model_states.pt")
fuzzing = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(path: Path) -> None:
    """Open a checkpoint and touch every byte that it says it has."""
    with nothing_happens():
        try:
            checkpoint = open_checkpoint(path)
        except FlagAIError:
            return
    for name in checkpoint:
        for tensor in checkpoint.tensors(name):
            if tensor.numel() < 10**6:  # a stride of 0 gives any number of elements
                tensor.clone()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model, and its small cousins in every format."""
    folder = tmp_path_factory.mktemp("fuzz")
    saved(folder / "model", seed=0).save_pretrained(folder / "shards", max_shard_size=9000)
    weights = {
        "a.weight": torch.arange(12.0).view(3, 4).T,
        "b": torch.ones(5, dtype=torch.float16),
        "c": torch.zeros(0),
    }
    dump = {"module": weights, "args": argparse.Namespace(x=1), "rng": np.random.RandomState(0).get_state()[1][:3]}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    for name in NAMES[1:]:
        torch.save(dump, folder / name, _use_new_zipfile_serialization=name != "legacy.bin")
        read(folder / name)  # imports what is imported late
    read(folder / "model.safetensors")
    return folder


_PLACE = st.floats(0, 1)
_EDIT = st.one_of(
    st.tuples(st.just("flip"), _PLACE, st.integers(0, 7)),
    st.tuples(st.just("set"), _PLACE, st.sampled_from([b"\0", b"\x7f", b"\xff", b"\xff" * 4, b"\xff" * 8, b"\0" * 8])),
    st.tuples(st.just("set"), _PLACE, st.binary(min_size=1, max_size=6)),
    st.tuples(st.just("insert"), _PLACE, st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("repeat"), _PLACE, st.integers(1, 60)),
    st.tuples(st.just("delete"), _PLACE, st.integers(1, 60)),
    st.tuples(st.just("cut"), _PLACE, st.none()),
)
edits = st.lists(_EDIT, min_size=1, max_size=4)


def changed(content: bytes, changes: list[Any], end: int | None = None) -> bytes:
    """Apply edits at relative places before ``end``."""
    data = bytearray(content)
    for kind, place, value in changes:
        at = int(place * max(0, min(len(data), end or len(data)) - 1))
        if kind == "flip" and data:
            data[at] ^= 1 << value
        elif kind == "set":
            data[at : at + len(value)] = value
        elif kind == "insert":
            data[at:at] = value
        elif kind == "repeat":
            data[at:at] = data[at : at + value]
        elif kind == "delete":
            del data[at : at + value]
        elif kind == "cut":
            del data[at:]
    return bytes(data)


@fuzzing
@given(content=st.binary(max_size=300), name=st.sampled_from([*NAMES, "latest", "model.safetensors.index.json"]))
def test_any_bytes(tmp_path: Path, content: bytes, name: str) -> None:
    folder = tmp_path / "any"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    read(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", NAMES)
@fuzzing
@given(changes=edits, narrow=st.booleans())
def test_changed_weights(folder: Path, tmp_path: Path, name: str, changes: list[Any], narrow: bool) -> None:
    content = (folder / name).read_bytes()
    end = content.find(b"PK\x03\x04", 1)  # the first record is the pickle
    path = tmp_path / name
    path.write_bytes(changed(content, changes, end if narrow and end > 0 else None))
    read(path)


@pytest.mark.parametrize(("first", "second"), [(NAMES[0], NAMES[1]), (NAMES[1], NAMES[3]), (NAMES[2], NAMES[1])])
@fuzzing
@given(cut=_PLACE, take=_PLACE)
def test_spliced_files(folder: Path, tmp_path: Path, first: str, second: str, cut: float, take: float) -> None:
    head, tail = (folder / first).read_bytes(), (folder / second).read_bytes()
    path = tmp_path / first
    path.write_bytes(head[: int(cut * len(head))] + tail[int(take * len(tail)) :])
    read(path)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@fuzzing
@given(
    entries=st.dictionaries(
        st.text(max_size=3),
        st.fixed_dictionaries(
            {},
            optional={
                "dtype": st.sampled_from(["F32", "U8", "F8_E4M3", "BOOL"]) | _json,
                "shape": st.lists(st.integers(-1, 4) | st.integers(), max_size=4) | _json,
                "data_offsets": st.tuples(st.integers(-1, 20), st.integers(-1, 40)) | _json,
            },
        ),
        max_size=3,
    ),
    size=st.integers(0, 40),
)
def test_any_header(tmp_path: Path, entries: dict[str, Any], size: int) -> None:
    header = json.dumps(entries).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    read(path)


@fuzzing
@given(changes=edits)
def test_a_changed_index(folder: Path, tmp_path: Path, changes: list[Any]) -> None:
    target = tmp_path / "shards"
    if not target.is_dir():
        shutil.copytree(folder / "shards", target)
    name = "model.safetensors.index.json"
    (target / name).write_bytes(changed((folder / "shards" / name).read_bytes(), changes))
    with nothing_happens():
        load(target)


def load(folder: Path) -> None:
    try:
        GLMModel.from_pretrain(folder)
    except FlagAIError:
        return


@fuzzing
@given(changes=edits)
def test_a_changed_configuration(folder: Path, tmp_path: Path, changes: list[Any]) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(changed((folder / "model" / "config.json").read_bytes(), changes))
    try_configuration(path)


@fuzzing
@given(key=st.sampled_from(GLMConfig.names()), value=_json)
def test_any_value_in_a_configuration(folder: Path, tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads((folder / "model" / "config.json").read_text()) | {key: value}))
    try_configuration(path)


def try_configuration(path: Path) -> None:
    said = str(path)
    with nothing_happens():
        try:
            GLMConfig.from_json(path)
        except ConfigError as error:
            said = str(error)
    assert str(path) in said


@pytest.mark.parametrize(
    "attack", ["os.system('true')", "exec('1')", "eval('1')", "subprocess.run(['true'])", "open(path, 'w')"]
)
def test_the_watch_works(tmp_path: Path, attack: str) -> None:
    code = compile(attack, __file__, "eval")
    with pytest.raises(AssertionError), nothing_happens():
        eval(code, {"os": os, "subprocess": subprocess, "path": tmp_path / "file"})


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@fuzzing
@given(changes=edits)
def test_a_changed_model(folder: Path, tmp_path: Path, name: str, changes: list[Any]) -> None:
    """The whole path: names that changed must end in one report, too."""
    source = folder / "model" / name
    if not source.exists():
        from safetensors.torch import load_file

        torch.save(load_file(folder / "model" / "model.safetensors"), source)
    content = source.read_bytes()
    (tmp_path / "config.json").write_bytes((folder / "model" / "config.json").read_bytes())
    (tmp_path / name).write_bytes(changed(content, changes, 4000))
    load(tmp_path)


_names = st.sampled_from(["a.weight", "b"]) | st.text(max_size=6)
_files = st.sampled_from(["model.safetensors", "pytorch_model.bin", "legacy.bin", "config.json", "sub", ".", ".."])


@fuzzing
@given(
    content=_json
    | st.fixed_dictionaries(
        {"weight_map": st.dictionaries(_names, _files | _json, max_size=3) | _json}, optional={"metadata": _json}
    ),
    name=st.sampled_from(["model.safetensors.index.json", "pytorch_model.bin.index.json"]),
)
def test_any_index(folder: Path, tmp_path: Path, content: Any, name: str) -> None:
    if not (tmp_path / "sub").is_dir():
        (tmp_path / "sub").mkdir()
        for file in ("model.safetensors", "legacy.bin"):
            shutil.copy(folder / file, tmp_path / f"shard-{file}")
    (tmp_path / name).write_text(json.dumps(content).replace('"model.safe', '"shard-model.safe'))
    read(tmp_path)
    read(tmp_path / name)
    (tmp_path / name).unlink()


@fuzzing
@given(
    tag=st.text(max_size=12) | st.binary(max_size=12),
    name=st.sampled_from(["latest", "latest_checkpointed_iteration.txt"]),
)
def test_any_tag(tmp_path: Path, tag: str | bytes, name: str) -> None:
    (tmp_path / name).write_bytes(tag if isinstance(tag, bytes) else tag.encode(errors="surrogatepass"))
    read(tmp_path)
    (tmp_path / name).unlink()


@fuzzing
@given(key=st.text(max_size=4) | st.sampled_from([*GLMConfig.names(), "architectures", "model_type"]), value=_json)
def test_tools_for_folders_find_problems_and_never_fail(folder: Path, tmp_path: Path, key: str, value: Any) -> None:
    """A configuration with any value: doctor reports, convert converts or refuses."""
    target = tmp_path / "model"
    if not target.is_dir():
        shutil.copytree(folder / "model", target)
    content = json.loads((folder / "model" / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(content | {key: value}))
    assert list(examine(target))
    with suppress(FlagAIError):
        convert(target, tmp_path / "converted", overwrite=True)
