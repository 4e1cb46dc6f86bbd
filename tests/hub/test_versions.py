"""Files of one version, parts that survive a power failure, one model a folder, and secrets in odd places."""

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flagai.catalog.card import ModelFile
from flagai.errors import FlagAIError, HubError
from flagai.hub import ensure, web
from flagai.hub.listing import list_files
from flagai.hub.manifest import Manifest, ManifestEntry
from flagai.hub.partial_file import Identity, PartialFile
from flagai.hub.request import DownloadRequest, UncatalogedModel
from tests.hub.conftest import FILES, QUICK, WEIGHTS, contents
from tests.hub.server import Fault, Hub

NAME = "pytorch_model.bin"
NEW = {name: bytes(reversed(content)) for name, content in FILES.items()}  # of the same sizes
Model = Callable[[Hub], UncatalogedModel]


def baai(hub: Hub) -> UncatalogedModel:
    return UncatalogedModel("m", ("baai:GLM-large-ch",))


def plain(hub: Hub) -> UncatalogedModel:
    return UncatalogedModel("m", (f"{hub.url}/plain/GLM-large-ch/",), [ModelFile(name) for name in FILES])


@pytest.mark.parametrize("etags", [True, False], ids=["ETag", "nothing"])
@pytest.mark.parametrize("model", [baai, plain])
def test_a_server_that_changes_between_two_runs(hub: Hub, tmp_path: Path, model: Model, etags: bool) -> None:
    hub.etags = etags
    hub.faults = {NAME: Fault(status=404)}
    with pytest.raises(HubError):
        ensure(model(hub), tmp_path / "m", policy=QUICK)
    assert (tmp_path / "m" / ".flagai" / "staged.json").exists()
    hub.faults, hub.models["GLM-large-ch"] = {}, dict(NEW)
    ensure(model(hub), tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == NEW


@pytest.mark.parametrize("model", [baai, plain])
def test_a_server_that_changes_while_files_are_fetched(hub: Hub, tmp_path: Path, model: Model) -> None:
    """The small files come first; when the large one is asked for, all are of a new version."""

    class Release(Fault):
        @property
        def status(self) -> int | None:
            hub.models["GLM-large-ch"].update(NEW)
            return None

        @status.setter
        def status(self, _: object) -> None:
            pass

    hub.faults = {"vocab.txt": Release(times=4)}
    ensure(model(hub), tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == NEW


@pytest.mark.parametrize("edited", [False, True])
def test_a_server_that_changes_after_some_files_were_published(hub: Hub, tmp_path: Path, edited: bool) -> None:
    ensure(baai(hub), tmp_path / "m", wanted=("config", "vocab.txt"), policy=QUICK)
    own = bytes(len(FILES["config.json"]))
    if edited:
        (tmp_path / "m" / "config.json").write_bytes(own)
    hub.models["GLM-large-ch"] = dict(NEW)
    ensure(baai(hub), tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == NEW | ({"config.json": own} if edited else {})


def test_a_folder_that_changes_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, copy, once = tmp_path / "made", shutil.copyfile, [NEW]
    made.mkdir()
    for name, content in FILES.items():
        (made / name).write_bytes(content)

    def copy_and_change(source: Path, target: Path) -> None:
        copy(source, target)
        for name, content in once.pop().items() if target.name == "vocab.txt" and once else ():
            (made / name).write_bytes(content)

    monkeypatch.setattr(shutil, "copyfile", copy_and_change)
    ensure(f"file:{made}", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == NEW


@pytest.fixture
def part(hub: Hub, tmp_path: Path) -> Path:
    """A part with its notes, as a process that was ended leaves it."""
    path = tmp_path / "m" / ".flagai" / "parts" / f"{NAME}.part"
    path.parent.mkdir(parents=True)
    whole = PartialFile(path, Identity(len(WEIGHTS), None, f"baai:GLM-large-ch None {NAME}", _etag(WEIGHTS)))
    for begin in (0, 400_000):
        for position in range(begin, begin + 300_000, 50_000):
            whole.write(position, WEIGHTS[position : position + 50_000])
    whole.close()
    return path


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def test_a_sound_part_is_gone_on_with(hub: Hub, part: Path, tmp_path: Path) -> None:
    ensure(baai(hub), tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES
    assert sum(end - begin for begin, end in hub.bytes_sent(NAME)) == len(WEIGHTS) - 600_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: bytes(len(content)),
        lambda content: bytes(300_000) + content[300_000:],
        lambda content: content[:400_000] + bytes(300_000),
        lambda content: content[:1000] + b"\x00" + content[1001:],
        lambda content: content[:200_000],
        lambda _: b"",
        lambda content: content + bytes(1 << 20),
    ],
    ids=["zeros", "zeros first", "zeros last", "one byte", "cut", "empty", "longer"],
)
def test_a_part_that_a_power_failure_damaged(
    hub: Hub, part: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    part.write_bytes(damage(part.read_bytes()))
    ensure(baai(hub), tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES


@pytest.mark.parametrize(
    "done",
    [[[0, 1_280_000]], [[0, 1_280_000, 0]], [[0, 9_999_999, 7]], [[-5, 10, 0]], [[5, 5, 0]], [[0, 9, 0], [3, 12, 0]],
     "x", [[0, 1e3, 0]], [[0, True, 0]], [["0", "9", "0"]], {}, None],
)  # fmt: skip
def test_notes_that_claim_too_much(hub: Hub, part: Path, tmp_path: Path, done: object) -> None:
    notes = part.with_name(part.name + ".json")
    notes.write_text(json.dumps(json.loads(notes.read_text()) | {"done": done}))
    part.write_bytes(bytes(len(WEIGHTS)))
    ensure(baai(hub), tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == FILES


def test_a_part_longer_than_its_file_is_not_published(tmp_path: Path) -> None:
    part = PartialFile(tmp_path / "x.part", Identity(5, None, "here", '"1"'))
    part.write(0, b"hello")
    with (tmp_path / "x.part").open("ab") as file:
        file.write(b" and more")
    with pytest.raises(HubError, match="14 bytes instead of 5"):
        part.publish(tmp_path / "x")
    part.close()


@pytest.mark.parametrize("digest", ["", "0", None, 7, "z" * 64, "a" * 63])
def test_a_mirror_s_manifest_without_checksums_is_refused(hub: Hub, tmp_path: Path, digest: object) -> None:
    ensure("hf:owner/glm", tmp_path / "first", policy=QUICK)
    manifest = json.loads((tmp_path / "first" / ".flagai.json").read_text())
    manifest["files"][NAME]["sha256"] = digest
    hub.models["mirror"] = {**FILES, NAME: bytes(len(WEIGHTS)), ".flagai.json": json.dumps(manifest).encode()}
    with pytest.raises(HubError, match="sha256"):
        ensure(f"{hub.url}/plain/mirror", tmp_path / "m", policy=QUICK)
    assert contents(tmp_path / "m") == {}


ODD = [None, True, -1, 1.5, 10**30, "", "\x1b[31m", "../x", [], [1], {}, {"a": 1}, "x" * 100_000]


def test_manifests_and_listings_of_odd_values(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ManifestEntry(1, "0" * 64, (), "hf:a/b")
    Manifest("m", "hf:a/b", "r", ("x",)).with_file("x", entry).write(tmp_path / "good.json")
    good = json.loads((tmp_path / "good.json").read_text())
    for value in ODD:
        for place in (good, good["files"], good["files"]["x"]):
            for name in place:
                kept, place[name] = place[name], value
                _either(lambda: Manifest.parse(json.dumps(good), "here"))
                place[name] = kept
    hub_list = {"sha": "1" * 40, "siblings": [{"rfilename": "config.json", "size": 1, "lfs": {"sha256": "0" * 64}}]}
    scope = {"Data": {"Files": [{"Path": "config.json", "Size": 1, "Sha256": "0" * 64, "Type": "blob"}]}}
    ticket = {"code": "200", "url": "http://127.0.0.1:9/x", "size": 1}
    for answer, spec in ((hub_list, "hf:a/b"), (scope, "modelscope:a/b"), (ticket, "baai:a")):
        monkeypatch.setattr(web.Web, "text", lambda *_, **__: "1")
        for value in ODD:
            for path in _paths(answer):
                odd = _with(answer, path, value)
                listing = ["config.json"] if spec == "baai:a" else odd
                monkeypatch.setattr(web.Web, "json", lambda *a, o=odd, n=listing, **_: n if "Name?" in str(a) else o)
                asked = DownloadRequest(UncatalogedModel.of(spec), tmp_path, ("config",), (spec,), False, QUICK)
                _either(lambda s=spec, o=asked: list_files(o, s, web.Web(QUICK)))


def _paths(value: object, begin: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [begin, *(path for key, child in inner for path in _paths(child, (*begin, key)))]


def _with(value: object, path: tuple[object, ...], odd: object) -> object:
    copy = json.loads(json.dumps(value))
    if not path:
        return odd
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = odd
    return copy


def _either(call: Callable[[], object]) -> None:
    """A result, or this library's error, safe on a terminal and short."""
    try:
        call()
    except FlagAIError as error:
        text = str(error)
    else:
        text = ""
    assert "\x1b" not in text
    assert len(text) < 3_000


@pytest.mark.parametrize("force", [False, True])
def test_two_models_in_one_folder_at_once(hub: Hub, tmp_path: Path, force: bool) -> None:
    """One gets the folder, the other an error; with --force it is the second's in the end."""
    for number in range(2):
        hub.models[f"owner{number}/glm"] = {name: bytes([number]) + content for name, content in FILES.items()}
    hub.speed = 0.01
    results: dict[int, str] = {}

    def call(number: int) -> None:
        try:
            ensure(f"hf:owner{number}/glm", tmp_path / "m", policy=QUICK, force=force and number == 1)
            results[number] = "done"
        except HubError as error:
            results[number] = str(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    winner = {content[0] for content in contents(tmp_path / "m").values()}
    assert len(winner) == 1  # never files of both
    assert results[winner.pop()] == "done"
    assert force or any(re.search(r"holds owner\d/glm from hf:owner", text) for text in results.values())


def test_another_revision_is_another_model(hub: Hub, tmp_path: Path) -> None:
    ensure("hf:owner/glm", tmp_path / "m", policy=QUICK)
    ensure("hf:owner/glm@main", tmp_path / "m", policy=QUICK)
    ensure("hf:owner/glm@0123456789abcdef0123456789abcdef01234567", tmp_path / "m", policy=QUICK)
    with pytest.raises(HubError, match="holds owner/glm from hf:owner/glm"):
        ensure("hf:owner/glm@v2", tmp_path / "m", policy=QUICK)
    with pytest.raises(HubError, match="holds owner/glm from hf:owner/glm"):
        ensure("hf:other/glm", tmp_path / "m", policy=QUICK)


def test_what_a_server_says_reaches_nobody_raw(hub: Hub, tmp_path: Path) -> None:
    hub.ticket = {"code": "\x1b]0;owned\x07\nerror: fake", "url": None}
    with pytest.raises(HubError) as caught:
        ensure(baai(hub), tmp_path / "m", policy=QUICK)
    assert "\x1b" not in str(caught.value)
    assert "\\x1b]0;owned\\x07 error: fake" in str(caught.value)
    hub.listing = ["config.json\u202egnp", "vocab.txt"]
    with pytest.raises(HubError, match="names the file"):
        ensure(baai(hub), tmp_path / "n", policy=QUICK)
