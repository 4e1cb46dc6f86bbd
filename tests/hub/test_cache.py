"""Files that the cache of Hugging Face has are taken from there."""

import json
from pathlib import Path

import pytest

from flagai.catalog.card import ModelFile
from flagai.errors import HubError, OfflineError
from flagai.hub import ensure
from flagai.hub.request import UncatalogedModel
from tests.hub.conftest import CONFIG, FILES, QUICK, VOCABULARY, WEIGHTS, contents
from tests.hub.server import COMMIT, Hub, sha256

NAME = "pytorch_model.bin"


def hf_cache(root: Path, files: dict[str, bytes] = FILES) -> Path:
    blobs, snapshot = root / "models--owner--glm" / "blobs", root / "models--owner--glm" / "snapshots" / COMMIT
    refs = root / "models--owner--glm" / "refs"
    for folder in (blobs, snapshot, refs):
        folder.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    for name, content in files.items():
        (blobs / sha256(content)).write_bytes(content)
        (snapshot / name).symlink_to(blobs / sha256(content))
    return snapshot


def test_offline_the_hugging_face_cache_is_copied(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_sockets: None
) -> None:
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
    snapshot = hf_cache(tmp_path / "hf-cache")
    folder = ensure("hf:owner/glm", tmp_path / "m")
    assert contents(folder) == FILES
    for name in FILES:  # copied: who rewrites the one must not destroy the other
        assert not (folder / name).samefile(snapshot / name)
    assert not (folder / NAME).is_symlink()


def test_online_the_hub_tells_what_there_is_and_the_cache_gives_the_bytes(hub: Hub, tmp_path: Path) -> None:
    hf_cache(tmp_path / "hf-cache")
    ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES
    assert [entry.path for entry in hub.log] == ["/api/models/owner/glm/revision/main"]


def test_a_hub_that_does_not_answer_is_replaced_by_a_whole_cache(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_cache(tmp_path / "hf-cache")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES


SHARDS = {f"model-0000{n}-of-00003.safetensors": bytes([n]) * 3_000 for n in (1, 2, 3)}
INDEX = {"weight_map": {f"tensor.{n}": name for n, name in enumerate(SHARDS)}}
SHARDED = {
    "config.json": CONFIG,
    "vocab.txt": VOCABULARY,
    "tokenizer_config.json": b'{"do_lower_case": false}',
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    **SHARDS,
}


@pytest.mark.parametrize(
    "lost", ["vocab.txt", "tokenizer_config.json", "model-00002-of-00003.safetensors", "config.json"]
)
def test_what_a_cache_lacks_comes_from_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Hugging Face's own library fetches what a program asks for: weights without vocabulary, some of the shards."""
    hub.models["owner/glm"] = dict(SHARDED)
    snapshot = hf_cache(tmp_path / "hf-cache", SHARDED)
    (snapshot / lost).unlink()
    ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == SHARDED
    assert {entry.path.rpartition("/")[2] for entry in hub.log if entry.count} <= {lost}
    if lost == "tokenizer_config.json":
        return  # only the hub knows that there is one
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
    with pytest.raises(OfflineError):
        ensure("hf:owner/glm", tmp_path / "n")
    assert contents(tmp_path / "n") == {}


@pytest.mark.parametrize("scheme", ["file", "hf", "https"])
@pytest.mark.parametrize("named", [True, False], ids=["index", "numbers"])
def test_a_source_without_some_shards_is_not_taken_for_whole(
    hub: Hub, tmp_path: Path, scheme: str, named: bool
) -> None:
    files = dict(SHARDED)
    del files["model-00002-of-00003.safetensors"]
    if named:  # only the index tells
        files = {name.replace("-of-00003", ""): content.replace(b"-of-00003", b"") for name, content in files.items()}
    else:
        del files["model.safetensors.index.json"]
    for name, content in files.items():
        (tmp_path / "made").mkdir(exist_ok=True)
        (tmp_path / "made" / name).write_bytes(content)
    hub.models["owner/glm"] = files
    source = {"file": f"file:{tmp_path / 'made'}", "hf": "hf:owner/glm", "https": f"{hub.url}/plain/owner/glm/"}[scheme]
    card = UncatalogedModel("m", (source,), [ModelFile(name) for name in files])
    with pytest.raises(HubError, match=r"has no model-00002.*complete"):
        ensure(card, tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == {}


def test_an_incomplete_or_damaged_cache_is_completed_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    snapshot = hf_cache(tmp_path / "hf-cache")
    (snapshot / "vocab.txt").unlink()
    (snapshot / NAME).resolve().write_bytes(bytes(len(WEIGHTS)))
    ensure("hf:owner/glm", tmp_path / "m", wanted=("config", "vocab.txt", NAME), policy=QUICK)
    assert contents(tmp_path / "m") == FILES
    assert hub.bytes_sent("config.json") == []
