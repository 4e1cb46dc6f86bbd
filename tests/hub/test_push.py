"""`flagai push`: against a real server that speaks the hubs' protocols."""

import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flagai.cli import app
from flagai.errors import HubError, InputError, OfflineError
from flagai.hub import ensure
from flagai.hub.push import push
from flagai.hub.request import UncatalogedModel
from tests.hub.conftest import contents
from tests.hub.server import Fault, Hub
from tests.hub.uploads import UploadHandler

SIZES = {"model.safetensors": 300_000, "extra.safetensors": 200_000}
TARGETS = ["hf:me/name", "modelscope:me/name"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with hidden files, which nobody should see."""
    home = tmp_path / "mine"
    (home / "1_Pooling").mkdir(parents=True)
    for name, size in SIZES.items():
        (home / name).write_bytes(random.Random(size).randbytes(size))
    for name in ("config.json", "1_Pooling/config.json", "vocab.txt", ".flagai.json", ".env"):
        (home / name).write_text(f'{{"name": "{name}"}}')
    (home / "README.md").write_text("---\nlicense: unknown\ntags:\n- flagai\n---\n# mine\n")
    return home


@pytest.fixture
def writable(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    hub.RequestHandlerClass = UploadHandler
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "secret")
    monkeypatch.delenv("FLAGAI_OFFLINE", raising=False)
    return hub


def uploads(hub: Hub) -> list[int]:
    return sorted(entry.count for entry in hub.log if entry.method == "PUT")


@pytest.mark.parametrize("target", TARGETS)
def test_a_pushed_model_is_downloaded_again(writable: Hub, folder: Path, tmp_path: Path, target: str) -> None:
    address = push(folder, target, private=True)
    assert address.startswith(writable.url)
    assert address.endswith("me/name")
    pushed = writable.models["me/name"]
    visible = {name: content for name, content in contents(folder).items() if not name.startswith(".")}
    assert {name: content for name, content in pushed.items() if name != ".gitattributes"} == visible
    created = next(entry.body[0] for entry in writable.log if entry.method == "POST" and "ame" in str(entry.body))
    assert created.get("private") is True or created.get("visibility") == "private" or created.get("Visibility") == 1
    fetched = ensure(UncatalogedModel.of(target), tmp_path / "fetched", wanted=("config", "weights"))
    assert (fetched / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("target", TARGETS)
def test_what_has_arrived_is_not_sent_again(
    writable: Hub, folder: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writable.faults["300000"] = Fault(status=403, times=100)
    with pytest.raises(HubError, match=f"{target} was not written.*The same command goes on"):
        push(folder, target)
    writable.faults.clear()
    # Hugging Face's commit is one; ModelScope's library commits what has arrived.
    assert "model.safetensors" not in writable.models["me/name"]
    assert target.startswith("modelscope") or "config.json" not in writable.models["me/name"]
    begun = len(writable.log)
    push(folder, target)
    sent = [entry.count for entry in writable.log[begun:] if entry.method == "PUT"]
    arrived = [size for size in SIZES.values() if size != 300_000 and size in sent]
    assert 300_000 in sent
    assert arrived == [] or uploads(writable).count(200_000) == 1
    writable.log.clear()
    push(folder, target)  # nothing differs
    assert uploads(writable) == []


@pytest.mark.parametrize("target", TARGETS)
def test_other_files_are_not_replaced_without_being_told(writable: Hub, folder: Path, target: str) -> None:
    writable.models["me/name"] = {".gitattributes": b"", "config.json": b"{}", "other.bin": b"x"}
    with pytest.raises(HubError, match=r"has other files already: config.json, other.bin.*--overwrite"):
        push(folder, target)
    assert writable.models["me/name"]["config.json"] == b"{}"
    push(folder, target, overwrite=True)
    assert writable.models["me/name"]["config.json"] == (folder / "config.json").read_bytes()
    assert writable.models["me/name"]["other.bin"] == b"x"


@pytest.mark.parametrize("target", TARGETS)
def test_tokens(writable: Hub, folder: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(variable, "wrong-token")
    with pytest.raises(HubError, match="was not written") as error:
        push(folder, target)
    assert "wrong-token" not in str(error.value)
    for variable in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(variable)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(HubError, match=r"no token for .*Set (HF_TOKEN|MODELSCOPE_API_TOKEN)"):
        push(folder, target)
    assert writable.models.keys() == {"GLM-large-ch", "owner/glm"}


def test_the_command_states_a_licence(writable: Hub, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = CliRunner().invoke(app, ["push", str(folder), "hf:me/name"])
    assert result.exit_code == 0, result.exception
    assert "states no licence" in caplog.text
    result = CliRunner().invoke(app, ["push", str(folder), "hf:me/name", "--licence", "mit", "--overwrite"])
    assert result.exit_code == 0, result.exception
    assert b"license: mit" in writable.models["me/name"]["README.md"]
    assert b"# mine" in writable.models["me/name"]["README.md"]


def test_what_cannot_be_pushed(writable: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for target in ("me/name", "baai:name", "hf:me/name@main"):
        with pytest.raises(InputError, match=r"is not a repository. Write it as hf:owner/name"):
            push(folder, target)
    with pytest.raises(HubError, match="is not a source"):
        push(folder, "hf:name")
    with pytest.raises(InputError, match=r"is not a model's folder: it has no config.json"):
        push(tmp_path, "hf:me/name")
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
    with pytest.raises(OfflineError):
        push(folder, "hf:me/name")
    assert writable.log == []
