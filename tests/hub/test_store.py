"""What is fetched, from whom, and what is left alone."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flagai.catalog.card import ModelFile
from flagai.errors import HubError, OfflineError
from flagai.hub import ensure, look
from flagai.hub.manifest import Manifest, verify
from flagai.hub.request import UncatalogedModel
from tests.hub.conftest import CONFIG, FILES, QUICK, VOCABULARY, WEIGHTS, contents
from tests.hub.server import COMMIT, Fault, Hub, sha256

NAME = "pytorch_model.bin"


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def filled(hub: Hub, tmp_path: Path) -> Path:
    return ensure("hf:owner/glm", tmp_path / "GLM-large-ch", policy=QUICK)


def test_a_complete_folder_opens_no_socket(filled: Path, no_sockets: None) -> None:
    assert ensure("hf:owner/glm", filled) == filled
    assert ensure("baai:GLM-large-ch", filled, wanted=("config", "vocab.txt")) == filled
    assert look("hf:owner/glm", filled) is None


def test_a_folder_filled_by_hand_is_taken_as_it_is(tmp_path: Path, no_sockets: None) -> None:
    folder = tmp_path / "GLM-large-ch"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(b"mine")
    card = UncatalogedModel(
        "GLM-large-ch", ("baai:GLM-large-ch",), [ModelFile(NAME, 10**9), ModelFile("config.json", 3)]
    )
    ensure(card, folder)
    (folder / "vocab.txt").unlink()
    ensure(card, folder, wanted=("config", "weights"))


@pytest.mark.parametrize("switch", ["FLAGAI_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_opens_no_socket_and_says_what_is_missing(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_sockets: None, switch: str
) -> None:
    monkeypatch.setenv(switch, "1")
    folder = tmp_path / "GLM-large-ch"
    with pytest.raises(OfflineError) as caught:
        ensure(UncatalogedModel("GLM-large-ch", ("baai:GLM-large-ch", "hf:owner/glm")), folder)
    for word in ("config, weights, tokenizer", str(folder), "baai:GLM-large-ch or hf:owner/glm", "offline"):
        assert word in str(caught.value)
    assert not folder.exists()
    assert hub.log == []


def test_offline_takes_files_of_this_machine(
    tmp_path: Path, filled: Path, monkeypatch: pytest.MonkeyPatch, no_sockets: None
) -> None:
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
    ensure(f"file://{filled}", tmp_path / "copy")
    assert contents(tmp_path / "copy") == FILES


def test_only_what_is_wanted_and_missing_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.models["owner/glm"] |= {"tf_model.h5": b"no", "model.safetensors": WEIGHTS, "README.md": b"no"}
    folder = ensure("hf:owner/glm", tmp_path / "m", wanted=("config",), policy=QUICK)
    assert contents(folder) == {"config.json": CONFIG}
    ensure("hf:owner/glm", folder, policy=QUICK)
    assert contents(folder) == {"config.json": CONFIG, "model.safetensors": WEIGHTS, "vocab.txt": VOCABULARY}
    assert len(hub.bytes_sent("config.json")) == 1
    (folder / "vocab.txt").unlink()
    ensure("hf:owner/glm", folder, policy=QUICK)
    assert len(hub.bytes_sent("vocab.txt")) == 2
    assert len(hub.bytes_sent("config.json")) == 1


def test_users_own_files_are_kept(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_bytes(b"mine")
    ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == {**FILES, "config.json": b"mine"}
    assert "config.json" not in Manifest.read(tmp_path / "m" / ".flagai.json").files


def test_a_fetched_file_that_somebody_rewrote_is_not_overwritten(hub: Hub, filled: Path) -> None:
    (filled / NAME).write_bytes(b"fine-tuned for a week")
    with pytest.raises(HubError, match=r"somebody has changed it.*--force"):
        ensure("hf:owner/glm", filled, policy=QUICK)
    assert (filled / NAME).read_bytes() == b"fine-tuned for a week"
    ensure("hf:owner/glm", filled, force=True, policy=QUICK)
    assert contents(filled) == FILES


def test_a_fetched_file_that_was_cut_is_fetched_again(hub: Hub, filled: Path) -> None:
    (filled / NAME).write_bytes(WEIGHTS[:100_000])
    (filled / "vocab.txt").write_bytes(b"")
    ensure("hf:owner/glm", filled, policy=QUICK)
    assert contents(filled) == FILES


def test_verify_and_force(hub: Hub, filled: Path) -> None:
    assert [finding.problem for finding in verify(filled)] == [None] * 3
    damaged = bytearray(WEIGHTS)
    damaged[700_000] ^= 1
    (filled / NAME).write_bytes(damaged)
    (filled / "vocab.txt").unlink()
    problems = {finding.name: finding.problem for finding in verify(filled)}
    assert problems == {
        "config.json": None,
        NAME: "has another content than was fetched",
        "vocab.txt": "is missing",
    }
    ensure("hf:owner/glm", filled, force=True, policy=QUICK)
    assert [finding.problem for finding in verify(filled)] == [None] * 3


def test_the_manifest_says_where_everything_came_from(filled: Path) -> None:
    manifest = json.loads((filled / ".flagai.json").read_text())
    assert manifest["source"] == "hf:owner/glm"
    assert manifest["revision"] == COMMIT
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: sha256(content) for name, content in FILES.items()
    }


def test_the_next_source_is_tried_for_each_file(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {NAME: Fault(status=404, times=1)}
    card = UncatalogedModel("GLM-large-ch", ("baai:GLM-large-ch", "hf:owner/glm"))
    ensure(card, tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES
    assert [e.path for e in hub.requests("vocab.txt") if e.count] == ["/files/GLM-large-ch/vocab.txt"]
    assert {e.path for e in hub.requests(NAME) if e.count} == {f"/cdn/owner/glm/{NAME}"}


def test_versions_of_two_sources_are_not_mixed(hub: Hub, tmp_path: Path) -> None:
    hub.models["owner/glm"]["config.json"] = b'{"another": 1}'
    hub.faults = {NAME: Fault(status=404, times=1)}
    ensure(UncatalogedModel("m", ("baai:GLM-large-ch", "hf:owner/glm")), tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == hub.models["owner/glm"]


def test_a_dead_source_and_an_unknown_model_are_passed_over(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAGAI_BAAI_URL", "http://127.0.0.1:9")
    card = UncatalogedModel("GLM-large-ch", ("baai:GLM-large-ch", "modelscope:owner/none", "hf:owner/glm"))
    ensure(card, tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES


def test_the_error_lists_what_each_source_said(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGAI_BAAI_URL", "http://127.0.0.1:9")
    card = UncatalogedModel(
        "GLM-large-ch", ("baai:GLM-large-ch", "modelscope:owner/none", "hf:owner/none", "odd:thing")
    )
    with pytest.raises(HubError) as caught:
        ensure(card, tmp_path / "m", policy=QUICK)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0].strip() for line in lines[1:5]] == list(card.sources)
    assert "refused" in lines[1]
    assert "model not found" in lines[2]
    assert "404" in lines[3]
    assert "is no source" in lines[4]
    assert all(word in lines[-1] for word in (str(tmp_path / "m"), "HF_ENDPOINT", "FLAGAI_OFFLINE"))


def test_a_version_that_is_not_the_cards_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.models["bad/glm"] = {**FILES, NAME: bytes(len(WEIGHTS))}
    known = [ModelFile(NAME, len(WEIGHTS), sha256(WEIGHTS)), ModelFile("config.json", 1, source="baai:x")]
    ensure(UncatalogedModel("m", ("hf:bad/glm", "hf:owner/glm"), known), tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES
    assert hub.bytes_sent(f"bad/glm/{NAME}") == []
    with pytest.raises(HubError, match=r"another version of config\.json"):
        ensure(UncatalogedModel("n", ("hf:owner/glm",), [ModelFile("config.json", 1)]), tmp_path / "n", policy=QUICK)


def test_the_cards_checksum_finds_a_wrong_file_where_the_source_has_none(hub: Hub, tmp_path: Path) -> None:
    hub.models["GLM-large-ch"][NAME] = bytes(len(WEIGHTS))
    card = UncatalogedModel("m", ("baai:GLM-large-ch",), [ModelFile(NAME, len(WEIGHTS), sha256(WEIGHTS))])
    with pytest.raises(HubError, match="corrupt"):
        ensure(card, tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == {}


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


def test_a_commit_that_was_interrupted_is_finished_without_the_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.parent == tmp_path / "m":
            raise HubError("killed here")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(HubError, match="killed here"):
        ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES
    assert not (tmp_path / "m" / ".flagai").exists()


def test_a_place_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a file")
    with pytest.raises(HubError, match="cannot be filled"):
        ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)


def test_a_damaged_manifest_is_named(filled: Path) -> None:
    (filled / ".flagai.json").write_text('{"format": 1')
    with pytest.raises(HubError, match=r"\.flagai\.json is no manifest.*Delete it"):
        ensure("hf:owner/glm", filled)


def test_looking_after_a_complete_folder_loads_little(filled: Path) -> None:
    program = "import sys; from flagai.hub import ensure; ensure('hf:owner/glm', sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-c", program, str(filled)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "requests", "urllib3", "huggingface_hub", "rich", "typer"} & set(loaded)


def test_a_folder_holds_one_model(hub: Hub, tmp_path: Path) -> None:
    hub.models["other/model"] = dict(FILES)
    ensure("hf:owner/glm", tmp_path / "m")
    with pytest.raises(HubError, match="holds glm from hf:owner/glm, not model"):
        ensure("hf:other/model", tmp_path / "m")
    ensure("hf:owner/glm", tmp_path / "m")
