"""User, password and query of a https source are used, and told to nobody: no message, no file, no name of a folder."""

import base64
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flagai.catalog.card import ModelFile
from flagai.errors import FlagAIError, HubError, OfflineError
from flagai.hub import ensure, look
from flagai.hub.names import public, shown
from flagai.hub.request import UncatalogedModel
from tests.hub.conftest import FILES, QUICK, contents
from tests.hub.server import Fault, Hub
from tests.hub.test_commands import app

NAME = "pytorch_model.bin"
SECRETS = ("anna", "pass-word", "token-value")


def url(hub: Hub, path: str) -> str:
    return f"{hub.url}/plain/owner/glm/{path}".replace("//", "//anna:pass-word@", 1)


def card(hub: Hub) -> UncatalogedModel:
    return UncatalogedModel("m", (url(hub, ""),), [ModelFile(name, source=url(hub, "")) for name in FILES])


def told(folder: Path, caplog: pytest.LogCaptureFixture, *texts: object) -> str:
    """Everything that anybody may read: messages, the log, all files and their names."""
    files = [f"{path} {path.read_bytes()!r}" for path in folder.rglob("*") if path.is_file()]
    return " ".join([caplog.text, *map(str, texts), *files])


@pytest.fixture(autouse=True)
def _all_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def test_a_folder_behind_a_password(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ensure(card(hub), tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES
    basic = "Basic " + base64.b64encode(b"anna:pass-word").decode()
    assert {entry.headers.get("Authorization") for entry in hub.log} == {basic}
    text = told(tmp_path, caplog)
    assert f"{hub.url}/plain/owner/glm/" in text
    assert not [secret for secret in SECRETS if secret in text]


def test_the_name_of_a_file_and_of_its_folder_ends_before_the_query(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = ensure(url(hub, f"{NAME}?token=token-value"), wanted=(NAME,), policy=QUICK)
    assert folder.name == NAME
    assert contents(folder) == {NAME: FILES[NAME]}
    assert not [secret for secret in SECRETS if secret in told(tmp_path, caplog)]


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=404), Fault(cut=1_000), Fault(claim=-9)])
def test_failures_keep_the_secrets(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Fault) -> None:
    hub.faults = {NAME: fault}
    with pytest.raises(FlagAIError) as caught:
        ensure(url(hub, f"{NAME}?token=token-value"), tmp_path / "m", wanted=(NAME,), policy=QUICK)
    text = told(tmp_path, caplog, caught.value)
    assert NAME in text
    assert not [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize(
    "source",
    [
        "https://anna:pass-word@[bad/x.bin?token=token-value",
        "http://anna:pass-word@127.0.0.1:9/x.bin?token=token-value",
        "http://anna:pass-word@127.0.0.1:99999/x.bin?token=token-value",
        "https://anna:pass-word@/x.bin?token=token-value",
    ],
)
def test_addresses_that_lead_nowhere_keep_the_secrets(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FlagAIError) as caught:
        ensure(UncatalogedModel("m", (source,)), tmp_path / "m", policy=QUICK)
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
    with pytest.raises(OfflineError) as offline:
        look(UncatalogedModel("m", (source,)), tmp_path / "n")
    text = told(tmp_path, caplog, caught.value, offline.value)
    assert not [secret for secret in SECRETS if secret in text]


def test_a_folder_takes_no_query(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(FlagAIError, match="has a query") as caught:
        ensure(url(hub, "?token=token-value"), tmp_path / "m", policy=QUICK)
    assert "token-value" not in str(caught.value)
    assert hub.log == []


def test_the_command_line_keeps_the_secrets(hub: Hub, tmp_path: Path) -> None:
    source = url(hub, f"{NAME}?token=token-value")
    hub.models["owner/glm"] = {NAME: FILES[NAME]}
    for arguments in (["download", source, "--dry-run"], ["download", source], ["cache", "list"]):
        result = CliRunner().invoke(app, [*arguments, "--path", str(tmp_path / "home")])
        assert result.exit_code == 0, result.exception
        assert NAME in result.output
        assert not [secret for secret in SECRETS if secret in result.output]


@pytest.mark.parametrize(
    ("target", "kept"), [("{0}/cdn/owner/glm/{1}", True), ("http://localhost:{2}/cdn/owner/glm/{1}", False)]
)
def test_a_redirect_keeps_the_token_for_the_same_origin_only(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, kept: bool
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    place = target.format(hub.url, "vocab.txt", hub.server_address[1])
    hub.faults = {"vocab.txt": Fault(redirect=place, times=1), NAME: Fault(cut=30_000)}
    ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    assert hub.requests("/revision/main")[0].headers["Authorization"] == "Bearer hf_secret"
    asked = [e.headers.get("Authorization") for e in hub.requests("/cdn/owner/glm/vocab.txt")]
    assert asked == (["Bearer hf_secret"] if kept else [None])
    # The large file is redirected within the server, and asked for many times: in segments, and after each cut.
    large = [e.headers.get("Authorization") for e in hub.requests(f"/cdn/owner/glm/{NAME}")]
    assert len(large) > 6
    assert set(large) == {"Bearer hf_secret"}


@pytest.mark.parametrize("token", ["hf_sec\nret", "hf_sec ret", "hf_sec\tret", "hf_secrét", "hf_sec\x7fret"])
def test_a_token_with_odd_characters_is_told_nowhere(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, token: str
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match="token") as caught:
        ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    files = [path.read_text() for path in (tmp_path / "m").rglob("*") if path.is_file()]
    assert "hf_sec" not in " ".join([str(caught.value), caplog.text, *files])
    assert hub.log == []


SECRET = [
    "https://anna:top/secret@host/x/",
    "https://anna:top/sec:ret/@host/x/",
    "https://anna:12/secret@host/x/",
    "https://anna:top?secret@host/x/",
    "https://anna:top#secret@host/x/",
    "https://anna:top\\secret@host/x/",
    "HTTPS://anna:secret@host/x/",
    "https:anna:secret@host/x/",
    "https:/anna:secret@host/x/",
    "ftp://anna:secret@host/x/",
    "odd://anna:secret@host/x?secret",
    "https://anna:secret@host/x/?token=secret",
    "https://anna:sec\nsecret@host/x/",
]


@pytest.mark.parametrize("spec", SECRET)
def test_passwords_with_odd_characters_are_told_nowhere(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, spec: str
) -> None:
    caplog.set_level(logging.DEBUG)
    policy = replace(QUICK, attempts=1, first_attempts=1, connect_timeout=0.5, read_timeout=0.5)
    with pytest.raises(FlagAIError) as caught:
        ensure(UncatalogedModel("m", (spec,), [ModelFile("vocab.txt")]), tmp_path / "m", policy=policy)
    files = [path.read_text() for path in (tmp_path / "m").rglob("*") if path.is_file()]
    told = " ".join([str(caught.value), caplog.text, *files, public(spec), shown(spec)])
    for word in ("secret", "top", "sec:ret"):
        assert word not in told
