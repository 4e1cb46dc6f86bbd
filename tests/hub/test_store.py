"""What is fetched, from whom, and what is left alone."""

import json
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
    with pytest.raises(HubError, match=r"it has been changed.*--force"):
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
    assert "404" in lines[3].replace(hub.url, "")  # whose port may hold the same digits
    assert "is not a source" in lines[4]
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
    with pytest.raises(HubError, match=r"\.flagai\.json is not a manifest.*Delete it"):
        ensure("hf:owner/glm", filled)


def test_looking_after_a_complete_folder_loads_little(filled: Path) -> None:
    program = "import sys; from flagai.hub import ensure; ensure('hf:owner/glm', sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-c", program, str(filled)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "requests", "urllib3", "huggingface_hub", "rich", "typer"} & set(loaded)


def test_a_folder_holds_one_model(hub: Hub, tmp_path: Path) -> None:
    hub.models["other/model"] = dict(FILES)
    ensure("hf:owner/glm", tmp_path / "m")
    with pytest.raises(HubError, match="holds owner/glm from hf:owner/glm, not other/model"):
        ensure("hf:other/model", tmp_path / "m")
    ensure("hf:owner/glm", tmp_path / "m")
