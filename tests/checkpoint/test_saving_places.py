"""What a save does to the files, links and permissions that it meets, and to places that cannot be written."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import InputError
from flagai.model.glm_model import GLMModel
from tests.checkpoint.crashes import SHARDS, in_child, left
from tests.checkpoint.making import equal

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
from filelock import FileLock  # while its files can be read
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
