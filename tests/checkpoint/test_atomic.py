"""Saving is all or nothing: a crash at any point leaves the whole old model or the whole new one."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.checkpoint import atomic, save
from flagai.checkpoint.atomic import replace_file, replace_folder
from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import InputError
from flagai.model import saving
from flagai.model.glm_model import GLMModel
from tests import tiny
from tests.checkpoint.making import equal, saved

CRASH = 9
SHARDS = 9000


@pytest.fixture
def old(tmp_path: Path) -> Any:
    return saved(tmp_path / "model", seed=1)


@pytest.fixture
def new() -> Any:
    return tiny.build("GLMModel", 2, spell_length=None, class_num=None)


def in_child(action: Callable[[], Any]) -> int:
    """Run something in a forked process and return its exit code (negative: the signal that ended it)."""
    child = os.fork()
    if not child:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def crash(*_: Any, **__: Any) -> None:
    os._exit(CRASH)


def crash_after(function: Callable[..., Any], calls: int = 1) -> Callable[..., Any]:
    left = iter(range(calls - 1, -1, -1))

    def run(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        return result if next(left) else crash()

    return run


# where to crash, and whether the new model is in place by then
STAGES: dict[str, tuple[Any, str, Callable[..., Any], bool]] = {
    "before writing": (saving, "write_shards", crash, False),
    "after one shard": (save, "write_file", crash_after(save.write_file), False),
    "between shards and index": (save, "write_file", crash_after(save.write_file, 3), False),
    "before the configuration": (saving, "write_shards", crash_after(saving.write_shards), False),
    "before other files": (atomic, "_carry_over", crash, False),
    "before syncing": (atomic, "sync_tree", crash, False),
    "in syncing": (atomic.os, "fsync", crash_after(os.fsync, 4), False),
    "before the exchange": (atomic, "_swap", crash, False),
    "after the exchange": (atomic, "_exchange", crash_after(atomic._exchange), True),
    "after the swap": (atomic, "_swap", crash_after(atomic._swap), True),
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


@pytest.mark.parametrize("where", ["write_shards", "_swap"])
def test_an_error_leaves_the_old_and_no_rubbish(
    tmp_path: Path, old: Any, new: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving if where == "write_shards" else atomic, where, fail)
    with pytest.raises((OSError, InputError), match="No space left"):
        new.save_pretrained(tmp_path / "model")
    assert equal(GLMModel.from_pretrain(tmp_path / "model"), old)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


# -- without an atomic exchange ---------------------------------------------------------------------------------


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    return


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


# -- what is kept and what goes ---------------------------------------------------------------------------------


def test_other_files_stay_and_stale_shards_go(tmp_path: Path, old: Any, new: Any) -> None:
    folder = tmp_path / "model"
    (folder / "vocab.txt").write_text("other")
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "file").write_text("deep")
    (folder / "link").symlink_to("vocab.txt")
    inode = (folder / "vocab.txt").stat().st_ino
    others = {"config.json", "vocab.txt", "sub", "link"}
    for size, count in ((SHARDS, 3), (12000, 2), ("5GB", 1), (SHARDS, 3)):
        new.save_pretrained(folder, max_shard_size=size)
        names = {entry.name for entry in folder.iterdir()}
        weights = {"model.safetensors"}
        if count > 1:
            weights = {f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)}
            weights.add("model.safetensors.index.json")
        assert names == others | weights
        assert equal(GLMModel.from_pretrain(folder), new)
    assert (folder / "sub" / "deep" / "file").read_text() == "deep"
    assert (folder / "link").readlink() == Path("vocab.txt")
    assert (folder / "vocab.txt").stat().st_ino == inode  # linked, not copied


def test_saving_into_the_folder_that_the_model_is_mapped_from(tmp_path: Path, old: Any) -> None:
    folder = tmp_path / "model"
    mapped, trained = GLMModel.from_pretrain(folder), GLMModel.from_pretrain(folder)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(2)
    trained.save_pretrained(folder)
    assert equal(GLMModel.from_pretrain(folder), trained)
    assert equal(mapped, old)
    mapped.save_pretrained(folder, max_shard_size=SHARDS)
    assert equal(GLMModel.from_pretrain(folder), old)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_saving_into_the_file_that_the_model_is_mapped_from(tmp_path: Path, new: Any, name: str) -> None:
    new.save_config(tmp_path / "config.json")
    new.save_weights(tmp_path / name)
    mapped = GLMModel.from_pretrain(tmp_path)
    mapped.save_weights(tmp_path / name)
    assert equal(mapped, new)
    assert equal(GLMModel.from_pretrain(tmp_path), new)
    assert {entry.name for entry in tmp_path.iterdir()} == {"config.json", name}


def test_a_linked_folder_is_updated_where_it_is(tmp_path: Path, old: Any, new: Any) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(tmp_path / "model")
    new.save_pretrained(link)
    assert link.is_symlink()
    assert equal(GLMModel.from_pretrain(tmp_path / "model"), new)


def test_permissions(tmp_path: Path, old: Any, new: Any) -> None:
    folder, mask = tmp_path / "model", os.umask(0o027)
    try:
        folder.chmod(0o2755)
        new.save_pretrained(folder)
        new.save_pretrained(tmp_path / "fresh")
        new.save_weights(tmp_path / "weights.bin")
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o7777 == 0o2755
    assert (tmp_path / "fresh").stat().st_mode & 0o777 == 0o750
    for path in (folder / "config.json", folder / "model.safetensors", tmp_path / "weights.bin"):
        assert path.stat().st_mode & 0o777 == 0o640


# -- what cannot be done ----------------------------------------------------------------------------------------

READ_ONLY = """
import os, sys
from pathlib import Path
from flagai.checkpoint.atomic import replace_file, replace_folder
from flagai.errors import InputError
if os.getuid() == 0:
    os.setuid(65534)
folder = Path(sys.argv[1])
for name, replace in {"file": replace_file, "model": replace_folder, "a/b": replace_file}.items():
    path = folder / name
    try:
        with replace(path):
            sys.exit("written")
    except InputError as error:
        assert str(path) in str(error) and "must be writable" in str(error), error
"""


def test_a_read_only_place_is_named() -> None:
    """In a process of its own, because nothing is read-only for root."""
    done = subprocess.run([sys.executable, "-c", READ_ONLY, "/proc"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path, new: Any) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        new.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"
    with pytest.raises(InputError, match="cannot be written"):
        new.save_pretrained(tmp_path / "model" / "inside")


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


def left(folder: Path) -> list[str]:
    return sorted(path.name for place in (folder, folder / "model") for path in place.glob(".*"))


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
    assert [name.partition(".saving-")[0] for name in left(tmp_path)] == [".config.json", ".model"]
    assert equal(GLMModel.from_pretrain(folder), old)
    new.save_weights(folder / "other.bin")
    assert [name.partition(".saving-")[0] for name in left(tmp_path)] == [".model"]
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


# -- full disks -------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_error_and_leaves_the_old_model(tmp_path: Path, old: Any, new: Any) -> None:
    """The limit for files of a process stands for the disk: the writers meet it at the same places."""
    folder = tmp_path / "model"

    def save_all() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        for action in (
            lambda: new.save_pretrained(folder),
            lambda: new.save_weights(folder / "model.safetensors"),
            lambda: new.save_weights(folder / "pytorch_model.bin"),
        ):
            with pytest.raises(InputError, match=r"cannot be written.*Free some space"):
                action()

    assert in_child(save_all) == 0
    assert left(tmp_path) == []
    assert equal(GLMModel.from_pretrain(folder), old)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "folder": lambda model, path: model.save_pretrained(path),
    "weights": lambda model, path: model.save_weights(path),
    "config": lambda model, path: model.save_config(path),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["circle", "circle/x", "n" * 300, "a\0b", "file/x"])
def test_places_that_cannot_be_are_one_error(tmp_path: Path, new: Any, writer: str, name: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"cannot be written|no file has a null"):
        WRITERS[writer](new, tmp_path / name)
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_weights_go_through_a_pipe_which_stays(tmp_path: Path, new: Any, name: str) -> None:
    """safetensors puts a new file in the place of what is there: a pipe, or /dev/null."""
    os.mkfifo(tmp_path / name)
    reader = subprocess.Popen(["cat", tmp_path / name], stdout=subprocess.PIPE)
    new.save_weights(tmp_path / name)
    content, _ = reader.communicate(timeout=60)
    assert stat.S_ISFIFO((tmp_path / name).stat().st_mode)
    (tmp_path / f"copy-{name}").write_bytes(content)
    new.save_weights(tmp_path / f"file-{name}")
    copy, file = (open_checkpoint(tmp_path / f"{place}-{name}").parts[0] for place in ("copy", "file"))
    assert copy.keys() == file.keys()
    assert all(torch.equal(copy[key], file[key]) for key in file)


@pytest.mark.parametrize("inside", [".", "logs"])
def test_the_working_directory_is_not_exchanged(
    tmp_path: Path, old: Any, new: Any, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell would be left in a folder that is gone, which shows no files."""
    (tmp_path / "model" / "logs").mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / "model" / inside)
    before = sorted(path.name for path in (tmp_path / "model").iterdir())
    with pytest.raises(InputError, match="working directory"):
        new.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in Path(tmp_path / "model").iterdir()) == before
    assert Path.cwd().exists()
