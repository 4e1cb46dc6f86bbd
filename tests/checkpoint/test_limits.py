"""Where memory, disks and sizes end: one error that says what was needed, and a model that is as it was."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flagai.checkpoint import fill, reader
from flagai.checkpoint.reader import open_checkpoint
from flagai.checkpoint.stream.plan import Copy
from flagai.checkpoint.stream.readers import ReaderPool
from flagai.errors import CheckpointError, ConfigError, LoadError
from flagai.model import loading
from flagai.model.bert_model import BertModel
from tests import tiny
from tests.checkpoint.making import equal, saved

OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", OUT, ids=lambda error: type(error).__name__)
def test_out_of_memory_says_what_was_loaded_and_what_is_needed(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, "BertModel")
    read, left = fill.TensorTransfer.read, iter([True] * 5)

    def reading(*arguments: Any, **options: Any) -> Any:
        if not next(left, False):
            raise error
        return read(*arguments, **options)

    monkeypatch.setattr(fill.TensorTransfer, "read", reading)
    with pytest.raises(
        CheckpointError, match=r"cpu does not hold BertModel from .*take .* GB.*of the .* GB of the files"
    ):
        BertModel.from_pretrain(tmp_path, dtype="float64")


def test_out_of_memory_of_new_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "BertModel")

    def fail(*_: Any) -> None:
        raise OUT[1]

    monkeypatch.setattr(loading, "materialize", fail)
    with pytest.raises(CheckpointError, match="cpu does not hold BertModel: its parameters take"):
        BertModel.init_from_json(tmp_path / "config.json")


def test_other_errors_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "BertModel")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(fill.TensorTransfer, "read", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        BertModel.from_pretrain(tmp_path)


def test_sizes_that_no_model_has_are_an_error_of_the_configuration(tmp_path: Path) -> None:
    saved(tmp_path, "BertModel")
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"hidden_size": 3 * 2**29}))
    with pytest.raises(ConfigError, match=r"config\.json.*hidden_size is 1610612736"):
        BertModel.from_pretrain(tmp_path)


def test_what_torch_cannot_build_is_an_error_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, "BertModel")

    def fail(*_: Any) -> None:
        raise RuntimeError("Storage size calculation overflowed")

    monkeypatch.setattr(BertModel, "__init__", fail)
    with pytest.raises(ConfigError, match=r"BertModel cannot be built.*config\.json"):
        BertModel.from_pretrain(tmp_path)


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), KeyError("x"), OverflowError("large"), RecursionError()]
)
def test_whatever_fails_while_files_are_read_is_a_checkpoint_error(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, "BertModel")

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(reader, "open_safetensors", fail)
    for read in (open_checkpoint, BertModel.from_pretrain, tiny.build("BertModel").load_weights):
        with pytest.raises(CheckpointError, match=type(error).__name__):
            read(tmp_path)


def test_empty_tensors_end_in_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that maps pages ahead has nothing to do then."""
    failed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    saved(tmp_path, "BertModel")
    save_file({"embeddings.word_embeddings.weight": torch.zeros(0)}, tmp_path / "model.safetensors")
    with pytest.raises(LoadError):
        BertModel.from_pretrain(tmp_path)
    assert failed == []


def test_a_file_that_took_the_name_of_a_mapped_one_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers for devices open files by name, after they were mapped."""
    save_file({"a": torch.zeros(1000)}, tmp_path / "model.safetensors")
    save_file({"a": torch.ones(1000)}, tmp_path / "new.safetensors")
    source, target = open_checkpoint(tmp_path / "model.safetensors").tensors("a")[0], torch.empty(1000)
    opened = os.open

    def exchange(path: Any, *arguments: Any) -> int:
        if str(path).endswith("model.safetensors") and (tmp_path / "new.safetensors").exists():
            (tmp_path / "new.safetensors").replace(tmp_path / "model.safetensors")
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", exchange)
    with (
        pytest.raises(CheckpointError, match="replaced by another file"),
        ReaderPool(torch.device("cpu"), 4000) as readers,
    ):
        readers.add([Copy(source, target)])


def test_an_expanded_tensor_is_no_model(tmp_path: Path) -> None:
    """Two kilobytes that say that they are gigabytes are refused before anything is copied."""
    model = saved(tmp_path, "BertModel", vocab_size=2_000_000)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["embed.token.weight"] = torch.zeros(1, 1).expand(2_000_000, 12)
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="repeats a few values"):
        BertModel.from_pretrain(tmp_path, dtype="float16")


def test_a_model_that_was_not_damaged_still_loads(tmp_path: Path) -> None:
    assert equal(saved(tmp_path, "BertModel"), BertModel.from_pretrain(tmp_path))
