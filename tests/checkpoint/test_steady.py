"""A folder that another process exchanges while it is read gives one of its versions, never a mixture."""

import inspect
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai import resolve
from flagai.checkpoint import reader, steady
from flagai.checkpoint.formats.safetensors_file import open_safetensors
from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import CheckpointError, FlagAIError
from flagai.model.bert_model import BertModel
from flagai.model.config import LOADING_ARGUMENTS
from tests import tiny
from tests.checkpoint.making import equal, refused, saved

# Exchanges two models, which differ in shapes, under one name until it is killed.
_WRITER = """
import sys
from tests import tiny
models = [tiny.build("BertModel", seed, num_hidden_layers=layers) for seed, layers in ((1, 2), (2, 3))]
print("ready", flush=True)
while True:
    for model in models:
        model.save_pretrained(sys.argv[1], max_shard_size="2KB")
"""


def test_readers_during_an_exchange(tmp_path: Path) -> None:
    """What is loaded is one of the two models, whole; the program that showed the fault ran for 25 seconds."""
    folder = tmp_path / "model"
    models = [tiny.build("BertModel", seed, num_hidden_layers=layers) for seed, layers in ((1, 2), (2, 3))]
    models[0].save_pretrained(folder, max_shard_size="2KB")
    with subprocess.Popen([sys.executable, "-c", _WRITER, folder], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            for _ in range(40):
                loaded = BertModel.from_pretrain(folder)
                assert any(equal(loaded, model) for model in models)
        finally:
            writer.kill()


class Changing:
    """Changes a folder after the first file of it was opened, for so many times."""

    def __init__(self, change: Callable[[], None], times: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._change, self._left = change, times
        self._open = open_safetensors
        monkeypatch.setattr(reader, "open_safetensors", self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        found = self._open(*arguments, **options)
        if self._left:
            self._left -= 1
            self._change()
        return found


def save_turns(folder: Path) -> Callable[[], None]:
    """Saves one of two models of equal shapes, in turns."""
    models = [tiny.build("BertModel", seed) for seed in (1, 2)]
    models[0].save_pretrained(folder, max_shard_size="2KB")
    turns = iter([1, 0] * 100)
    return lambda: models[next(turns)].save_pretrained(folder, max_shard_size="2KB")


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_folder_exchanged_between_two_shards_is_read_again(
    tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = save_turns(tmp_path / "model")
    Changing(change, times, monkeypatch)
    loaded = BertModel.from_pretrain(tmp_path / "model")
    assert equal(loaded, tiny.build("BertModel", 2 if times % 2 else 1))
    live = tiny.build("BertModel", 3)
    Changing(change, times, monkeypatch)
    live.load_weights(tmp_path / "model")
    assert equal(live, BertModel.from_pretrain(tmp_path / "model"))


def test_another_configuration_in_the_meantime_belongs_to_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "model", "BertModel", seed=1)
    Changing(lambda: saved(tmp_path / "model", "BertModel", seed=2, layer_norm_eps=0.5), 1, monkeypatch)
    loaded = BertModel.from_pretrain(tmp_path / "model")
    assert loaded.config.layer_norm_eps == 0.5
    assert equal(loaded, tiny.build("BertModel", 2))


def test_a_shard_that_goes_in_the_meantime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_turns(tmp_path / "model")
    new = saved(tmp_path / "new", "BertModel", seed=5)

    def replace() -> None:
        shutil.rmtree(tmp_path / "model")
        shutil.copytree(tmp_path / "new", tmp_path / "model")

    Changing(replace, 1, monkeypatch)
    assert equal(BertModel.from_pretrain(tmp_path / "model"), new)


def test_a_folder_that_never_rests_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "model", "BertModel")
    turns = itertools.count()
    change = partial(os.utime, tmp_path / "model" / "config.json")
    Changing(lambda: change(ns=(next(turns), next(turns))), 10_000, monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(CheckpointError, match="changed 20 times while it was read"):
        open_checkpoint(tmp_path / "model")


def test_what_does_not_change_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "model", "BertModel")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it was read again"))
    for read in (open_checkpoint, BertModel.from_pretrain):
        with refused("model.safetensors", kind=CheckpointError):
            read(tmp_path / "model")


def test_a_load_looks_for_files_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "model", "BertModel")
    looked: list[Path] = []
    for module in (steady, resolve):
        find = module.find_files
        monkeypatch.setattr(module, "find_files", lambda folder, find=find: looked.append(folder) or find(folder))
    BertModel.from_pretrain(tmp_path / "model")
    assert looked == [tmp_path / "model"]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_files_that_are_not_mapped_may_be_rewritten_in_place(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    model = saved(tmp_path, "BertModel")
    model.save_weights(tmp_path / name)
    if name.endswith("bin"):
        (tmp_path / "model.safetensors").unlink()
    loaded = BertModel.from_pretrain(tmp_path, mmap=False, dtype=dtype)
    live = tiny.build("BertModel", 3)
    live.load_weights(tmp_path, mmap=False)
    os.truncate(tmp_path / name, 0)
    assert equal(loaded, model.to(dtype))
    assert equal(live, tiny.build("BertModel"))
    with pytest.raises(FlagAIError):
        BertModel.from_pretrain(tmp_path)


def test_all_that_loading_takes_is_told_apart_from_settings() -> None:
    """AutoLoader and messages about unknown settings go by this list."""
    parameters = inspect.signature(BertModel.from_pretrain).parameters.values()
    named = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    assert sorted(named) == sorted(LOADING_ARGUMENTS)
