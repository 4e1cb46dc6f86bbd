"""Saving is all or nothing: a crash at any point leaves the whole old model or the whole new one."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flagai.checkpoint import atomic, save
from flagai.checkpoint.atomic import replace_file, replace_folder
from flagai.errors import InputError
from flagai.model import saving
from flagai.model.glm_model import GLMModel
from tests import tiny
from tests.checkpoint.crashes import CRASH, SHARDS, crash, crash_after, in_child, left
from tests.checkpoint.making import equal


def crash_at_the_parent(path: Path) -> None:
    """Crash when the parent's new entry is about to be synced: the folders are exchanged by then."""
    if not any(path.glob("*.safetensors")) and path.is_dir():
        crash()


# where to crash, and whether the new model is in place by then
STAGES: dict[str, tuple[Any, str, Callable[..., Any], bool]] = {
    "before writing": (saving, "write_shards", crash, False),
    "after one shard": (save, "write_file", crash_after(save.write_file), False),
    "between shards and index": (save, "write_file", crash_after(save.write_file, 3), False),
    "before the configuration": (saving, "write_shards", crash_after(saving.write_shards), False),
    "before other files": (atomic, "link", crash, False),
    "before syncing": (atomic, "sync_tree", crash, False),
    "in syncing": (atomic.os, "fsync", crash_after(os.fsync, 4), False),
    "before the exchange": (atomic, "sync_tree", crash_after(atomic.sync_tree), False),
    "after the exchange": (atomic, "sync", crash_at_the_parent, True),
    "before cleaning up": (atomic.shutil, "rmtree", crash, True),
    "after cleaning up": (atomic.shutil, "rmtree", crash_after(shutil.rmtree), True),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_crash_leaves_the_old_or_the_new(
    tmp_path: Path, old: Any, new: Any, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    (folder / "vocab.txt").write_text("other")
    owner, name, replacement, replaced = STAGES[stage]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, replacement)
        assert in_child(lambda: new.save_pretrained(folder, max_shard_size=SHARDS)) == CRASH
    assert equal(GLMModel.from_pretrain(folder), new if replaced else old)
    assert (folder / "vocab.txt").read_text() == "other"
    assert len(list(folder.glob("*.safetensors"))) == (3 if replaced else 1)
    third = tiny.build("GLMModel", 3, spell_length=None, class_num=None)
    third.save_pretrained(folder)  # what the crash left behind is not in the way
    assert equal(GLMModel.from_pretrain(folder), third)


@pytest.mark.parametrize("stage", ["before writing", "between shards and index", "before the exchange"])
def test_a_crash_of_the_first_save_leaves_nothing(
    tmp_path: Path, new: Any, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, replacement, _ = STAGES[stage]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, replacement)
        assert in_child(lambda: new.save_pretrained(tmp_path / "model", max_shard_size=SHARDS)) == CRASH
    assert not (tmp_path / "model").exists()
    new.save_pretrained(tmp_path / "model")
    assert equal(GLMModel.from_pretrain(tmp_path / "model"), new)


def test_killing_at_any_time_leaves_a_whole_model(tmp_path: Path, old: Any, new: Any) -> None:
    folder = tmp_path / "model"

    def save_for_ever() -> None:
        while True:
            for model in (new, old):
                model.save_pretrained(folder, max_shard_size=SHARDS)

    for attempt in range(6):
        child = os.fork()
        if not child:
            save_for_ever()
        time.sleep(0.02 + attempt * 0.011)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        loaded = GLMModel.from_pretrain(folder)
        assert equal(loaded, old) or equal(loaded, new)


@pytest.mark.parametrize("where", ["write_shards", "renameat2"])
def test_an_error_leaves_the_old_and_no_rubbish(
    tmp_path: Path, old: Any, new: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def refuse(*_: Any) -> int:
        ctypes.set_errno(28)
        return -1

    if where == "write_shards":
        monkeypatch.setattr(saving, where, fail)
    else:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(renameat2=refuse))
    with pytest.raises((OSError, InputError), match="No space left"):
        new.save_pretrained(tmp_path / "model")
    assert equal(GLMModel.from_pretrain(tmp_path / "model"), old)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


# -- without an atomic exchange ---------------------------------------------------------------------------------


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system whose library cannot exchange two folders in one step."""
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace())


@pytest.mark.usefixtures("no_exchange")
def test_without_an_exchange_folders_are_renamed(tmp_path: Path, old: Any, new: Any) -> None:
    new.save_pretrained(tmp_path / "model")
    assert equal(GLMModel.from_pretrain(tmp_path / "model"), new)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.usefixtures("no_exchange")
def test_without_an_exchange_a_failed_rename_is_undone(
    tmp_path: Path, old: Any, new: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, calls = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(InputError, match="the disk is gone"):
        new.save_pretrained(tmp_path / "model")
    assert equal(GLMModel.from_pretrain(tmp_path / "model"), old)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


# -- single files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_crash_leaves_the_old_file(tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(text: str) -> None:
        with replace_file(path) as temporary:
            temporary.write_text(text)

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync", crash) if stage == "fsync" else (Path, "replace", crash)))
        assert in_child(lambda: write("new")) == CRASH
    assert path.read_text() == "old"
    write("new")
    assert path.read_text() == "new"


def test_an_error_keeps_the_old_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    for replace in (replace_file, replace_folder):
        with (
            pytest.raises(ValueError, match="mine"),
            replace(tmp_path / ("file" if replace is replace_file else "new")),
        ):
            raise ValueError("mine")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "old")]


# -- what killed saves leave ------------------------------------------------------------------------------------


def test_the_next_save_sweeps_what_a_killed_one_left(
    tmp_path: Path, old: Any, new: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    saves: list[Callable[[], Any]] = [
        lambda: new.save_pretrained(folder, max_shard_size=SHARDS),
        lambda: new.save_weights(folder / "extra.bin"),
        lambda: new.save_config(folder),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        assert [in_child(action) for action in saves] == [CRASH] * 3
    # The save of the configuration has swept what the one of the weights left.
    assert sorted({name.partition(".saving-")[0] for name in left(tmp_path)}) == [".config.json", ".model"]
    assert equal(GLMModel.from_pretrain(folder), old)
    new.save_weights(folder / "other.bin")
    assert {name.partition(".saving-")[0] for name in left(tmp_path)} == {".model"}
    new.save_pretrained(folder)
    assert left(tmp_path) == []
    assert equal(GLMModel.from_pretrain(folder), new)


def test_a_save_under_way_is_not_swept(tmp_path: Path, old: Any, new: Any) -> None:
    folder = tmp_path / "model"
    with replace_folder(folder) as one, replace_file(tmp_path / "file") as other:
        (one / "mine.txt").write_text("mine")
        other.write_text("mine")
        for save_again in (lambda: new.save_pretrained(folder), lambda: new.save_weights(tmp_path / "x.bin")):
            assert in_child(save_again) == 0
            save_again()
    assert (folder / "mine.txt").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", [".model.original", ".model.saving-x", "model.saving-abcdefgh", ".saving-abcdefgh"])
def test_files_of_the_user_are_not_swept(tmp_path: Path, old: Any, new: Any, name: str) -> None:
    (tmp_path / name).write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".link.saving-abcdefgh").symlink_to(tmp_path / "elsewhere")
    new.save_pretrained(tmp_path / "model")
    assert (tmp_path / name).read_text() == "mine"
    assert (tmp_path / "elsewhere").is_dir()


MANY = """
import sys
from pathlib import Path
from flagai.checkpoint.atomic import replace_file
for number in range(400):
    with replace_file(Path(sys.argv[1]) / f"{sys.argv[2]}-{number % 7}") as place:
        place.write_text("x")
"""


def test_processes_write_into_one_folder(tmp_path: Path) -> None:
    """None sweeps away what another one has just begun."""
    writers = [
        subprocess.Popen([sys.executable, "-c", MANY, str(tmp_path), name], stderr=subprocess.PIPE) for name in "abc"
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=60)
        assert writer.returncode == 0, said.decode()
    assert len(list(tmp_path.iterdir())) == 21
