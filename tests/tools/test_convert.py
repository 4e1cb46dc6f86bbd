"""What convert leaves behind: one whole model, whatever was there and whenever it was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flagai.convert import convert
from flagai.doctor import examine
from flagai.errors import InputError, ModelNotFoundError
from flagai.model.bert_model import BertModel
from tests.checkpoint.making import equal, saved


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two models of different sizes, ``a`` and ``b``, with vocabularies of their own."""
    for seed, name in enumerate("ab"):
        saved(tmp_path / name, "BertModel", seed=seed, num_hidden_layers=1 + seed)
        (tmp_path / name / "vocab.txt").write_text(f"vocabulary of {name}\n")
    return tmp_path


def test_nothing_of_another_model_stays_and_everything_else_does(models: Path) -> None:
    a, b = models / "a", models / "b"
    (b / "1_Pooling").mkdir()
    for name in (
        "tokenizer.json",
        "added_tokens.json",
        "pytorch_model.bin",
        "latest",
        "README.md",
        "1_Pooling/config.json",
    ):
        (b / name).write_text("of b")
    (b / "notes.txt").write_text("mine")
    (b / "sub").mkdir()
    (b / "sub" / "data.txt").write_text("mine")
    done = convert(a, b, overwrite=True)
    assert done.companions == ["vocab.txt"]
    files = {path.relative_to(b).as_posix(): path for path in b.rglob("*") if path.is_file()}
    assert files.keys() == {"config.json", "model.safetensors", "vocab.txt", "notes.txt", "sub/data.txt"}
    assert files["vocab.txt"].read_text() == "vocabulary of a\n"
    assert equal(BertModel.from_pretrain(b), BertModel.from_pretrain(a))


def test_a_cut_companion_is_mended(models: Path) -> None:
    convert(models / "a", models / "c")
    (models / "c" / "vocab.txt").write_text("voc")
    convert(models / "a", models / "c", overwrite=True)
    assert (models / "c" / "vocab.txt").read_text() == "vocabulary of a\n"


def test_pooling_is_copied(models: Path) -> None:
    (models / "a" / "1_Pooling").mkdir()
    (models / "a" / "1_Pooling" / "config.json").write_text("{}")
    (models / "a" / "modules.json").write_text("[]")
    assert convert(models / "a", models / "c").companions == ["1_Pooling/config.json", "modules.json", "vocab.txt"]
    assert (models / "c" / "1_Pooling" / "config.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "1_Pooling/config.json"])
@pytest.mark.parametrize("folder", [False, True])
def test_links_out_of_the_folder_are_not_followed(models: Path, name: str, folder: bool) -> None:
    secret = models / "secret" / Path(name).name
    secret.parent.mkdir()
    secret.write_text("PRIVATE KEY")
    link = models / "a" / name
    link.unlink(missing_ok=True)
    if folder and link.parent != models / "a":
        link.parent.symlink_to(secret.parent)
    else:
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(secret)
    with pytest.raises(InputError, match="symbolic link"):
        convert(models / "a", models / "c")
    assert not (models / "c").exists()


def test_a_document_that_is_a_link_out_of_the_folder_is_left_out(models: Path) -> None:
    (models / "secret").write_text("PRIVATE KEY")
    (models / "a" / "README.md").symlink_to(models / "secret")
    (models / "a" / "LICENSE").symlink_to(models / "a" / "vocab.txt")
    done = convert(models / "a", models / "c")
    assert (done.left_out, done.companions) == (["README.md"], ["LICENSE", "vocab.txt"])
    assert not any(b"PRIVATE" in path.read_bytes() for path in (models / "c").iterdir())


def test_the_links_of_the_hub_cache_are_followed(models: Path) -> None:
    snapshot, blobs = models / "models--me--a" / "snapshots" / "1", models / "models--me--a" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate((models / "a").iterdir()):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert convert(snapshot, models / "c").companions == ["vocab.txt"]
    assert (models / "c" / "vocab.txt").read_text() == "vocabulary of a\n"


def test_a_companion_too_large_for_memory_is_refused(models: Path) -> None:
    os.truncate(models / "a" / "vocab.txt", 1 << 30)
    with pytest.raises(InputError, match="too large"):
        convert(models / "a", models / "c")


@pytest.mark.parametrize("name", ["circle", "n" * 300, "a\0b", "file"])
def test_targets_that_cannot_be_are_one_error(models: Path, name: str) -> None:
    (models / "circle").symlink_to("circle")
    (models / "file").write_text("mine")
    with pytest.raises(InputError, match=r"cannot be a folder|is a file"):
        convert(models / "a", models / name, overwrite=True)


# Converts a over b in children that kill themselves at the n-th access to a file, for each n until one survives.
_KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import torch
from flagai.convert import convert

folder = Path(sys.argv[1])
left = [0]

def watch(event, arguments):
    if left[0] and event.split(".")[0] in ("open", "os", "shutil", "tempfile", "ctypes") and event != "os.kill":
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
convert(folder / "a", folder / "warm")
for step in range(1, 100_000, 9):
    state = folder / "states" / f"{step:05}"
    state.mkdir(parents=True)
    shutil.copytree(folder / "b", state / "target")
    child = os.fork()
    if not child:
        left[0] = step
        convert(folder / "a", state / "target", overwrite=True)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_a_kill_at_any_time_leaves_the_old_model_or_the_new_one(models: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, models], check=True)
    ends = []
    for state in sorted((models / "states").iterdir()):
        vocabulary = (state / "target" / "vocab.txt").read_text()
        layers = BertModel.from_pretrain(state / "target").config.num_hidden_layers
        assert (vocabulary, layers) in (("vocabulary of a\n", 1), ("vocabulary of b\n", 2)), state
        ends.append(vocabulary)
    assert len(ends) > 5
    assert len(set(ends)) == 2


def test_a_name_of_the_catalog_is_a_source(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (models / "cards").mkdir()
    (models / "cards" / "mine.toml").write_text('["Tiny-Mine"]\nlike = "RoBERTa-base-ch"\nsources = ["hf:me/tiny"]\n')
    monkeypatch.setenv("FLAGAI_CARDS", str(models / "cards"))
    monkeypatch.setenv("FLAGAI_HOME", str(models / "home"))
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
    monkeypatch.chdir(models)
    findings = list(examine("tiny_mine"))
    assert findings[0].problem
    assert "flagai download" in findings[0].text
    (models / "home").mkdir()
    (models / "a").rename(models / "home" / "Tiny-Mine")
    assert not any(finding.problem for finding in examine("tiny_mine"))
    assert convert("tiny_mine", models / "c").companions == ["vocab.txt"]
    for call in (lambda: convert("no-such-model", models / "d"), lambda: convert(models / "cards", models / "d")):
        with pytest.raises(ModelNotFoundError):
            call()
