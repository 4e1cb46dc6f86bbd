"""What was damaged after or between downloads is mended, or said; what somebody changed on purpose is his."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest
import torch

from flagai.errors import HubError, InputError, OfflineError
from flagai.hub import ensure
from flagai.hub.manifest import Manifest, write_json
from flagai.hub.partial_file import Identity, PartialFile
from flagai.model.bert_model import BertModel
from flagai.resolve import resolve
from tests import tiny
from tests.hub.conftest import FILES, QUICK, VOCABULARY, contents
from tests.hub.server import COMMIT, Fault, Hub, git_sha1, sha256

NAME = "pytorch_model.bin"


@pytest.fixture
def bert(hub: Hub, tmp_path: Path) -> Path:
    """A tiny BERT, fetched into a folder of a name that no catalog has."""
    tiny.build("BertModel").save_pretrained(tmp_path / "made")
    hub.models["owner/bert"] = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    return ensure("hf:owner/bert", tmp_path / "models" / "mine", policy=QUICK)


@pytest.mark.parametrize("call", ["path", "name"])
@pytest.mark.parametrize("left", [0, 300, 5_000, -1])
def test_loading_mends_a_fetched_file_that_was_cut(bert: Path, call: str, left: int) -> None:
    whole = contents(bert)
    for name in ("model.safetensors", "config.json"):
        (bert / name).write_bytes(whole[name][:left])
    arguments = (bert,) if call == "path" else (bert.parent, bert.name)
    model = BertModel.from_pretrain(*arguments)
    assert contents(bert) == whole
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), tiny.build("BertModel").parameters(), strict=True))


def test_offline_a_cut_file_is_named_with_its_sizes(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (bert / "model.safetensors").stat().st_size
    os.truncate(bert / "model.safetensors", 400)
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
    with pytest.raises(OfflineError) as caught:
        BertModel.from_pretrain(bert)
    for word in (f"model.safetensors (400 of its {size} bytes are left)", "by hand", "hf:owner/bert", "unset"):
        assert word in str(caught.value)


def test_what_is_not_asked_for_is_mended_when_it_is(bert: Path, hub: Hub) -> None:
    whole, asked = contents(bert), len(hub.log)
    os.truncate(bert / "model.safetensors", 400)
    BertModel.from_pretrain(bert, only_download_config=True)
    assert len(hub.log) == asked
    (bert / "config.json").unlink()
    BertModel.from_pretrain(bert, only_download_config=True)
    assert (bert / "model.safetensors").stat().st_size == 400
    BertModel.from_pretrain(bert)
    assert contents(bert) == whole


def test_a_configuration_that_somebody_edited_is_his(bert: Path, hub: Hub) -> None:
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.25}))
    asked = len(hub.log)
    assert BertModel.from_pretrain(bert).config.hidden_dropout_prob == 0.25
    assert len(hub.log) == asked


def test_loading_finishes_an_interrupted_commit_without_the_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "mine"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _failing_for(NAME, Path.replace))
        with pytest.raises(HubError, match="killed"):
            ensure("hf:owner/glm", folder, policy=QUICK)
    assert (folder / ".flagai" / "commit.json").exists()
    (folder / "config.json").write_bytes(b"{}")  # the folder looks complete, and is not
    (folder / NAME).write_bytes(b"old")
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
    assert resolve(folder).folder == folder
    assert contents(folder) == FILES


def _failing_for(name: str, real: object) -> object:
    def replace(self: Path, target: Path) -> Path:
        if Path(target).name == name and ".flagai" not in Path(target).parts:
            raise HubError("killed here")
        return real(self, target)

    return replace


@pytest.mark.parametrize("content", [b"", b'{"format": 1', b"\xff", b"[]"])
@pytest.mark.parametrize("name", ["staged.json", "commit.json"])
def test_damaged_notes_of_a_download_do_not_block_the_next(hub: Hub, tmp_path: Path, name: str, content: bytes) -> None:
    hub.faults = {NAME: Fault(status=500)}
    with pytest.raises(HubError):
        ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    hub.faults = {}
    (tmp_path / "m" / ".flagai" / name).write_bytes(content)
    ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES
    assert Manifest.read(tmp_path / "m" / ".flagai.json").files.keys() == FILES.keys()


def test_staged_files_that_a_power_failure_emptied_are_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {NAME: Fault(status=500)}
    with pytest.raises(HubError):
        ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    hub.faults = {}
    (tmp_path / "m" / ".flagai" / "files" / "vocab.txt").write_bytes(b"")
    ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES


def test_a_folder_in_the_manifest_s_place_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "m" / ".flagai.json").mkdir(parents=True)
    with pytest.raises(HubError, match=r"\.flagai\.json cannot be read as a manifest .*Move it away"):
        ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)


@pytest.mark.parametrize("damage", [None, "config.json", NAME], ids=str)
def test_the_hugging_face_cache_is_checked_by_the_names_of_its_blobs(
    hub: Hub, tmp_path: Path, damage: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob is called by its sha256, or by git's sha1 if it is small; a damaged one of the right size is not taken."""
    monkeypatch.delenv("FLAGAI_OFFLINE", raising=False)
    root = tmp_path / "hf-cache" / "models--owner--glm"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for name, content in FILES.items():
        blob = root / "blobs" / (sha256(content) if name == NAME else git_sha1(content))
        blob.write_bytes(bytes(len(content)) if name == damage else content)
        (root / "snapshots" / COMMIT / name).symlink_to(blob)
    ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES
    assert {entry.path.rpartition("/")[2] for entry in hub.log if entry.count} == {damage} - {None}


def test_threads_that_write_the_same_notes_do_not_disturb_each_other(tmp_path: Path) -> None:
    part = PartialFile(tmp_path / "part", Identity(1 << 20, "digest", "origin"))
    part.write(0, VOCABULARY)
    errors: list[OSError] = []

    def save() -> None:
        try:
            for _ in range(50):
                part.save()
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=save) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    part.close()
    assert not errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part", "part.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_no_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    write_json(tmp_path / "a.json", {"old": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "a.json", {"new": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert "old" in (tmp_path / "a.json").read_text()


def test_notes_reach_the_disk_before_they_take_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), fsync(file))[1])
    monkeypatch.setattr(Path, "replace", lambda self, target: (done.append("replace"), replace(self, target))[1])
    write_json(tmp_path / "a.json", {"text": "\ud800"})
    assert done == ["fsync", "replace"]


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
def test_names_that_no_folder_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="model_name is"):
        resolve(tmp_path, name)


@pytest.mark.parametrize("name", ["lock.1", "failed.json", "staged.json", "commit.json", "id"])
def test_notes_that_are_nested_without_end(hub: Hub, tmp_path: Path, name: str) -> None:
    work = tmp_path / "m" / ".flagai"
    work.mkdir(parents=True)
    (work / name).write_text("[" * 200_000)
    ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES


def test_what_cannot_be_read_or_removed_is_an_error_of_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flagai.hub.store import remove_downloaded

    folder = ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)

    def forbid(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", forbid)
        with pytest.raises(HubError, match=r"cannot be removed.*Permission denied"):
            remove_downloaded(folder)
    monkeypatch.setattr(Path, "is_file", forbid)
    with pytest.raises(HubError, match=r"cannot be read.*Permission denied"):
        ensure("hf:owner/glm", folder)


def test_copied_files_reach_the_disk_before_the_notes_claim_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.json").write_bytes(FILES["config.json"])
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.readlink(f"/proc/self/fd/{file}")), real(file))[1])
    ensure(f"file:{tmp_path / 'made'}", tmp_path / "m", wanted=("config",), policy=QUICK)
    order = [next(n for n, path in enumerate(synced) if word in path) for word in ("files/config.json", "staged.json")]
    assert order == sorted(order)
