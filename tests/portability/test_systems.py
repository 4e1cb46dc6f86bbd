"""What Windows and macOS lack or refuse, taken away: files, locks, downloads, models, training and commands work."""

import json
import re
from pathlib import Path

import pytest

from flagai.errors import HubError
from flagai.hub.names import safe_name
from tests.portability.processes import run

SYSTEMS = ("windows", "macos")
FILES = """
import os, random, sys, threading
from pathlib import Path
from flagai import hub, system
from flagai.checkpoint.atomic import replace_file, replace_folder
from flagai.errors import InputError
from flagai.hub.manifest import verify
from flagai.hub.store import remove_downloaded
from tests.hub.conftest import FILES, QUICK, contents
from tests.hub.server import Fault, serving

folder = Path(sys.argv[1])
windows = system.WINDOWS
assert not system.LINUX and not hasattr(os, "fdatasync") and not hasattr(os, "sched_getaffinity")

# A download of several connections, cut once and waited for by others; then again by force.
with serving() as server:
    server.models = {"owner/glm": dict(FILES)}
    server.faults["pytorch_model.bin"] = Fault(cut=150_000, times=2)
    os.environ.update(HF_ENDPOINT=server.url, HF_HUB_CACHE=str(folder / "hf"), FLAGAI_OFFLINE="0")
    def fetch(**options):
        hub.ensure("hf:owner/glm", folder / "glm", policy=QUICK, **options)
    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(folder / "glm") == FILES
    assert not any(found.problem for found in verify(folder / "glm"))
    server.models["owner/glm"] = {**FILES, "vocab.txt": FILES["vocab.txt"] + b"new\\n"}
    with (folder / "glm" / "vocab.txt").open("rb"):
        try:
            fetch(force=True)
            assert not windows
        except OSError as error:
            assert windows and "is open, and Windows replaces no such file" in str(error), error
    fetch(force=True)
    assert contents(folder / "glm")["vocab.txt"].endswith(b"new\\n")
assert remove_downloaded(folder / "glm") == []

# A lock keeps others out, and what a killed process has left is swept.
with system.locked(folder / "lock"):
    try:
        with system.locked(folder / "lock"):
            raise SystemExit("a lock was taken twice")
    except BlockingIOError:
        pass
with system.locked(folder / "lock"):
    pass
left = folder / ".config.json.saving-0123abcd"
left.write_bytes(b"half")
with replace_file(folder / "config.json") as path:
    assert not left.exists()
    path.write_bytes(b"{}")

# Files and folders are replaced whole; one that is open is refused and stays as it was.
with replace_folder(folder / "model") as new:
    (new / "weights").write_bytes(b"1")
with replace_folder(folder / "model") as new:
    (new / "more").write_bytes(b"2")
assert sorted(path.name for path in (folder / "model").iterdir()) == ["more", "weights"]
with (folder / "model" / "more").open("rb"):
    try:
        with replace_folder(folder / "model") as new:
            (new / "more").write_bytes(b"3")
        assert not windows
    except InputError as error:
        assert windows and "mmap=False" in str(error), error
assert (folder / "model" / "more").read_bytes() == (b"2" if windows else b"3")

# One that is open for a moment, as a virus scanner has it, is waited for.
scanned = (folder / "config.json").open("rb")
threading.Timer(0.3, scanned.close).start()
with replace_file(folder / "config.json") as path:
    path.write_bytes(b"[]")
assert (folder / "config.json").read_bytes() == b"[]"
assert [path.name for path in folder.glob(".*")] == []
assert system.memory_bytes() > 1 << 30 and system.usable_cores() > 0
print("done")
"""
MODELS = """
import gc, json, sys
from pathlib import Path
from flagai.errors import InputError
from flagai.jobs.folder import JobDescription, OutputFolder
from flagai.system import WINDOWS
from flagai.train.batches import start_method


def main():
    import torch
    from flagai.model.bert_model import BertModel
    from flagai.train.finetune import finetune
    from flagai.train.recipe import Recipe
    from tests import tiny
    from tests.train import data

    folder = Path(sys.argv[1])
    one, two = (tiny.build("BertModel", seed) for seed in (1, 2))
    for model in (one, two):
        model.save_pretrained(folder / "bert")
    mapped = BertModel.from_pretrain(folder / "bert")
    try:
        one.save_pretrained(folder / "bert")
        assert not WINDOWS
    except InputError as error:
        assert WINDOWS and "mmap=False" in str(error)
    del mapped
    copied = BertModel.from_pretrain(folder / "bert", mmap=False)
    one.save_pretrained(folder / "bert")
    found = BertModel.from_pretrain(folder / "bert").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in one.state_dict().items())
    assert copied.config.hidden_size == one.config.hidden_size

    job = OutputFolder(folder / "job", JobDescription("ner", [], [folder / "program.py"], "jsonl", 10))
    with job.exclusive():
        try:
            with job.exclusive():
                raise SystemExit("two at work")
        except InputError as error:
            assert "Another process works" in str(error)

    assert start_method() == "spawn"
    data.home(folder, "RoBERTa-base-ch")
    data.write(folder, "ner")
    for out, workers in (("plain", 0), ("spawned", 1)):
        recipe = Recipe(epochs=1, batch_tokens=128, learning_rate=1e-2, workers=workers)
        finetune("ner", "RoBERTa-base-ch", folder / "ner.jsonl", folder / out, model_dir=folder, recipe=recipe)
    plain, spawned = (
        [json.loads(line).get("loss") for line in (folder / out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        for out in ("plain", "spawned")
    )
    assert plain == spawned and len(plain) > 1, (plain, spawned)
    assert [path.name for path in folder.iterdir() if "training" in path.name] == []
    assert b"\\r" not in (folder / "plain" / "config.json").read_bytes()
    assert b"\\r" not in (folder / "plain" / "README.md").read_bytes()
    print("done")


if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("system", SYSTEMS)
def test_downloads_locks_and_replaced_files(tmp_path: Path, system: str) -> None:
    assert run(system, tmp_path, FILES, str(tmp_path)).split() == [b"done"]


@pytest.mark.torch
@pytest.mark.parametrize("system", ["windows", pytest.param("macos", marks=pytest.mark.slow)])
def test_models_jobs_and_training(tmp_path: Path, system: str) -> None:
    pytest.importorskip("accelerate")
    assert run(system, tmp_path, MODELS, str(tmp_path)).split() == [b"done"]


@pytest.mark.parametrize("code_page", ["ascii", "cp936", "cp1252"])
def test_streams_are_utf8_whatever_the_code_page(tmp_path: Path, code_page: str) -> None:
    given = "你好，Füße \U0001f600\n"
    program = "import sys; from flagai.system import use_utf8; use_utf8(); print(sys.stdin.readline() + '\\ud800')"
    printed = run("windows", tmp_path, program, code_page=code_page, text=given.encode())
    assert printed == f"{given}\\ud800\n".encode(), "in UTF-8, without carriage returns; half a character as an escape"


def test_commands_print_utf8(tmp_path: Path) -> None:
    printed = run("windows", tmp_path, "", "show", "GLM-large-ch", "--json", code_page="cp1252")
    assert json.loads(printed.decode("utf-8"))["name"] == "GLM-large-ch"
    assert b"\r" not in printed


GONE_READER = """
import sys
from flagai import cli
def write():
    raise OSError(22, "Invalid argument")
cli.app = write
try:
    cli.main()
except SystemExit as end:
    sys.exit(end.code != 141)
"""


def test_a_pipe_without_a_reader_ends_a_command_quietly(tmp_path: Path) -> None:
    """Windows calls it an invalid argument."""
    assert run("windows", tmp_path, GONE_READER) == b""


@pytest.mark.parametrize("name", ["aux", "CON.json", "folder/nul.txt", "com1.bin", "weights.", "weights "])
def test_names_that_windows_has_for_devices_are_refused(name: str) -> None:
    with pytest.raises(HubError, match="names the file"):
        safe_name(name, "the source")


def test_names_that_only_look_like_devices_pass() -> None:
    assert safe_name("console/auxiliary.com1") == "console/auxiliary.com1"


@pytest.mark.parametrize("page", ["systems.md", "zh/systems.md"])
def test_the_page_names_tests_that_exist(page: str) -> None:
    """Each row of what is tested names its test."""
    root = Path(__file__).parents[2]
    here = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    found = re.findall(r"`((?:test_|tests/|\.ci/)[\w./]+)`", (root / "docs" / page).read_text(encoding="utf-8"))
    for name in found:
        assert f"def {name}(" in here or (root / name).exists(), name
    assert len([name for name in found if name.startswith("test_")]) == 6
