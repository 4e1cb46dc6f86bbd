"""Whatever the server does, there is the right file or a clear error, and nothing half-written under a final name."""

import random
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from flagai.catalog.card import ModelFile
from flagai.errors import HubError
from flagai.hub import ensure
from flagai.hub.request import UncatalogedModel
from flagai.hub.web import innermost_reason
from tests.hub.conftest import FILES, QUICK, WEIGHTS, contents
from tests.hub.server import Fault, Hub

NAME = "pytorch_model.bin"
SOURCES = ("baai:GLM-large-ch", "hf:owner/glm", "modelscope:owner/glm")


def covers_once(ranges: list[tuple[int, int]], size: int) -> bool:
    return [start for start, _ in ranges] + [size] == [0] + [end for _, end in ranges]


def fetch(hub: Hub, folder: Path, source: str = "hf:owner/glm") -> Path:
    return ensure(source, folder, policy=QUICK)


def fails(hub: Hub, folder: Path, source: str, message: str) -> None:
    with pytest.raises(HubError, match=message):
        fetch(hub, folder, source)
    assert contents(folder) == {}


@pytest.mark.parametrize("source", SOURCES)
def test_every_protocol_gives_the_files_and_each_byte_once(hub: Hub, tmp_path: Path, source: str) -> None:
    folder = tmp_path / "m"
    assert fetch(hub, folder, source) == folder
    assert contents(folder) == FILES
    for name, content in FILES.items():
        assert covers_once(hub.bytes_sent(name), len(content))
    assert len(hub.bytes_sent(NAME)) > 3  # in segments
    assert not (folder / ".flagai").exists()


def test_plain_https_with_names_of_a_card_and_with_a_manifest(hub: Hub, tmp_path: Path) -> None:

    card = UncatalogedModel("m", (f"{hub.url}/plain/owner/glm/",), [ModelFile(name) for name in FILES])
    ensure(card, tmp_path / "first", policy=QUICK)
    assert contents(tmp_path / "first") == FILES
    hub.models["mirror"] = {**FILES, ".flagai.json": (tmp_path / "first" / ".flagai.json").read_bytes()}
    fetch(hub, tmp_path / "second", f"{hub.url}/plain/mirror")
    assert contents(tmp_path / "second") == FILES


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("seed", range(3))
def test_connections_cut_at_random_bytes(hub: Hub, tmp_path: Path, source: str, seed: int) -> None:
    cut = random.Random(seed).randrange(17_000, 150_000)
    hub.faults = {NAME: Fault(cut=cut), "vocab.txt": Fault(cut=100, times=2)}
    fetch(hub, tmp_path / "m", source)
    assert contents(tmp_path / "m") == FILES
    assert covers_once(hub.bytes_sent(NAME), len(WEIGHTS))


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_server_is_asked_again(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.faults = {NAME: Fault(status=status, times=2)}
    fetch(hub, tmp_path / "m")
    assert contents(tmp_path / "m") == FILES


def test_retry_after_is_honoured(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {"config.json": Fault(status=429, retry_after="1", times=1)}
    begin = time.monotonic()
    fetch(hub, tmp_path / "m")
    assert time.monotonic() - begin >= 1
    hub.faults = {"config.json": Fault(status=429, retry_after="3600")}
    fails(hub, tmp_path / "other", "hf:owner/glm", "asks to wait 3600 s")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(status=500), r"500 .*given up after 4 attempts"),
        (Fault(status=404), "404"),
        (Fault(status=403), "403"),
        (Fault(corrupt=True), "corrupt"),
        (Fault(drip=0.05), "too slow"),
        (Fault(claim=100, cut=0), "given up|6100 bytes there instead of 6000"),
        (Fault(redirect="/nowhere"), "404"),
        (Fault(redirect="file:///etc/passwd"), "file:///etc/passwd"),
        (Fault(cut=0), "given up"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("name", ["vocab.txt", NAME])
def test_a_hopeless_server_ends_in_a_clear_error(
    hub: Hub, tmp_path: Path, fault: Fault, message: str, name: str
) -> None:
    hub.faults = {name: fault}
    fails(hub, tmp_path / "m", "hf:owner/glm", message)


def test_a_short_answer_ends_in_a_clear_error(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {"vocab.txt": Fault(claim=-100)}  # asked for whole; to ranges, short answers are legal
    fails(hub, tmp_path / "m", "hf:owner/glm", "instead of")


def test_a_wrong_length_once_is_survived(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {NAME: Fault(claim=500, times=3), "vocab.txt": Fault(claim=-50, times=1)}
    fetch(hub, tmp_path / "m")
    assert contents(tmp_path / "m") == FILES


def test_corruption_on_the_way_is_noticed_and_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {NAME: Fault(corrupt=True, times=1), "vocab.txt": Fault(corrupt=True, times=1)}
    fetch(hub, tmp_path / "m")
    assert contents(tmp_path / "m") == FILES


@pytest.mark.parametrize("source", SOURCES)
def test_a_server_that_ignores_ranges(hub: Hub, tmp_path: Path, source: str) -> None:
    hub.faults = {NAME: Fault(whole=True)}
    fetch(hub, tmp_path / "m", source)
    assert contents(tmp_path / "m") == FILES


def test_a_server_that_ignores_ranges_and_cuts(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {NAME: Fault(whole=True, cut=900_000, times=3)}
    fetch(hub, tmp_path / "m", "baai:GLM-large-ch")
    assert contents(tmp_path / "m") == FILES


@pytest.mark.parametrize("conditions", [True, False], ids=["If-Range", "no If-Range"])
def test_a_file_that_changes_during_the_transfer(hub: Hub, tmp_path: Path, conditions: bool) -> None:
    hub.conditions = conditions
    changed = bytes(reversed(WEIGHTS))
    hub.faults = {NAME: Fault(cut=100_000, change=changed, after=2)}
    fetch(hub, tmp_path / "m", "baai:GLM-large-ch")
    assert contents(tmp_path / "m")[NAME] == changed


def test_a_file_that_changes_its_size_during_the_transfer(hub: Hub, tmp_path: Path) -> None:
    hub.etags = False
    hub.faults = {NAME: Fault(cut=100_000, change=WEIGHTS[1:], after=2, times=4)}
    fetch(hub, tmp_path / "m", "baai:GLM-large-ch")
    assert contents(tmp_path / "m")[NAME] == WEIGHTS[1:]


@pytest.mark.parametrize("name", ["vocab.txt", NAME])
@pytest.mark.parametrize("weak", [False, True], ids=["no ETag", "weak ETag"])
def test_bytes_of_unknown_versions_are_not_joined(hub: Hub, tmp_path: Path, weak: bool, name: str) -> None:
    """The size stays, and the server does not tell that the content changed while the line was broken."""
    hub.etags, hub.weak = weak, True
    changed = bytes(reversed(FILES[name]))
    hub.faults = {name: Fault(cut=2_000, change=changed, after=1, times=2)}
    fetch(hub, tmp_path / "m", "baai:GLM-large-ch")
    assert contents(tmp_path / "m")[name] == changed


@pytest.mark.parametrize("where", ["listing", "file"])
def test_compressed_answers_are_refused(hub: Hub, tmp_path: Path, where: str) -> None:
    hub.gzip = where == "listing"
    hub.faults = {NAME: Fault(gzip=where == "file")}
    fails(hub, tmp_path / "m", "hf:owner/glm", r"compressed \(gzip\), which was not asked for")


def test_a_link_relative_to_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.listing = [NAME]
    hub.ticket = {"url": f"/files/GLM-large-ch/{NAME}"}
    ensure("baai:GLM-large-ch", tmp_path / "m", wanted=("weights",), policy=QUICK)
    assert contents(tmp_path / "m") == {NAME: WEIGHTS}


def test_several_sources_on_a_black_hole_cost_one_timeout(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as hole, socket.socket() as guest:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        guest.connect(hole.getsockname())  # the queue is full now: what else knocks gets no answer
        monkeypatch.setenv("FLAGAI_BAAI_URL", f"http://127.0.0.1:{hole.getsockname()[1]}")
        monkeypatch.setenv("MODELSCOPE_DOMAIN", f"http://127.0.0.1:{hole.getsockname()[1]}")
        begin = time.monotonic()
        card = UncatalogedModel("m", ("baai:GLM-large-ch", "modelscope:owner/glm", "hf:owner/glm"))
        ensure(card, tmp_path / "m", policy=replace(QUICK, connect_timeout=2.0))
        assert 2.0 <= time.monotonic() - begin < 4.0, "the sources are tried at the same time"
    assert contents(tmp_path / "m") == FILES


def test_a_black_hole_behind_a_redirect_is_not_taken_for_the_hub(hub: Hub, tmp_path: Path) -> None:
    with socket.socket() as hole, socket.socket() as guest:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        guest.connect(hole.getsockname())
        hub.faults = {"vocab.txt": Fault(redirect=f"http://127.0.0.1:{hole.getsockname()[1]}/x", times=1)}
        card = UncatalogedModel("m", (f"{hub.url}/plain/owner/glm/vocab.txt", "modelscope:owner/glm"))
        ensure(card, tmp_path / "m", wanted=("vocab.txt",), policy=replace(QUICK, connect_timeout=0.5))
    assert contents(tmp_path / "m") == {"vocab.txt": FILES["vocab.txt"]}


def test_an_interrupted_run_is_resumed_by_the_next(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {NAME: Fault(cut=40_000, times=2), "vocab.txt": Fault()}
    hub.faults[NAME] = Fault(status=500)
    fails(hub, tmp_path / "m", "hf:owner/glm", "given up")
    assert covers_once(hub.bytes_sent("vocab.txt"), len(FILES["vocab.txt"]))
    hub.faults = {}
    fetch(hub, tmp_path / "m")
    assert contents(tmp_path / "m") == FILES
    for name, content in FILES.items():  # nothing twice, over both runs
        assert covers_once(hub.bytes_sent(name), len(content))


def test_the_bytes_of_one_source_are_continued_by_another(hub: Hub, tmp_path: Path) -> None:
    class Dying(Fault):  # gives 300 kB, then nothing
        @property
        def status(self) -> int | None:
            return 503 if self.times < (1 << 30) - 3 else None

        @status.setter
        def status(self, _: object) -> None:
            pass

    fault = Dying()
    hub.faults = {NAME: fault}
    hub.models["second/glm"] = dict(FILES)

    with pytest.raises(HubError):
        fetch(hub, tmp_path / "m")
    hub.faults = {}
    ensure("modelscope:second/glm", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES
    assert covers_once(hub.bytes_sent(NAME), len(WEIGHTS))


@pytest.mark.parametrize(
    "name",
    ["../evil.bin", "/etc/evil", "a/../../evil", "C:\\evil", "a\\b", "nul\0byte", "", ".", "a//b", "x\ny", "\ud800"],
)
@pytest.mark.parametrize("source", ["baai:GLM-large-ch", "hf:owner/glm"])
def test_names_that_leave_the_folder(hub: Hub, tmp_path: Path, name: str, source: str) -> None:
    hub.listing = ["config.json", NAME, name]
    fails(hub, tmp_path / "m", source, "names the file")
    assert not list(tmp_path.rglob("evil*"))


def test_a_claim_of_more_than_the_disk_has(hub: Hub, tmp_path: Path) -> None:
    hub.ticket = {"size": 10**16}
    fails(hub, tmp_path / "m", "baai:GLM-large-ch", "needs .* TB, but the disk")


def test_a_claim_of_ten_gigabytes(hub: Hub, tmp_path: Path) -> None:
    hub.ticket = {"size": 10**10}
    fails(hub, tmp_path / "m", "baai:GLM-large-ch", "instead of 10000000000|given up")
    assert sum(path.stat().st_blocks * 512 for path in (tmp_path / "m").rglob("*")) < 10_000_000


@pytest.mark.parametrize("ticket", [{"url": "file:///etc/passwd"}, {"url": None}, {"url": 7, "code": "50000"}])
def test_a_ticket_that_leads_elsewhere(hub: Hub, tmp_path: Path, ticket: dict[str, object]) -> None:
    hub.ticket = ticket
    fails(hub, tmp_path / "m", "baai:GLM-large-ch", "gave no link")


def test_a_closed_port(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGAI_BAAI_URL", "http://127.0.0.1:9")
    fails(hub, tmp_path / "m", "baai:GLM-large-ch", "(?i)connection refused.*given up after 3 attempts")


@pytest.mark.parametrize("owner", ["Secure", "SecurePool", "HTTPSConnection"])
def test_a_connection_is_told_by_its_host(owner: str) -> None:
    error = requests.ConnectionError(OSError(f"{owner}(host='hub.example', port=443): Read timed out."))
    assert innermost_reason(error) == "connection to hub.example:443: Read timed out."


@pytest.mark.parametrize("source", ["hf:owner/\ud800", "baai:\ud800/glm", "https://host/\ud800/x"])
def test_half_a_character_in_a_source(hub: Hub, tmp_path: Path, source: str) -> None:
    with pytest.raises(HubError, match=r"\\ud800"):
        ensure(UncatalogedModel("m", (source,)), tmp_path / "m", policy=QUICK)
    assert hub.log == []


@pytest.mark.parametrize("source", ["baai:unknown", "hf:owner/unknown", "modelscope:owner/unknown"])
def test_an_unknown_model(hub: Hub, tmp_path: Path, source: str) -> None:
    fails(hub, tmp_path / "m", source, "no model|not found|404")
