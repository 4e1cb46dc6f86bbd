"""``flagai run`` with real processes: killed, out of space, several devices, torchrun."""

import filecmp
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flagai import cli
from flagai.errors import InputError
from tests import folders
from tests.tools.commands import fails, run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model."""
    home = tmp_path_factory.mktemp("models")
    folders.write(home, "RoBERTa-base-ch", "BertModel")
    return home


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of rows, two of which cannot be answered."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [json.dumps({"id": number, "text": f"第{number}个句子" * (number % 5 + 1)}) for number in range(600)]
    lines[70], lines[333] = '{"id": 70}', "not JSON"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def command(home: Path, texts: Path, out: Path, *more: str) -> list[str]:
    options = ["--in", str(texts), "--out", str(out), "--rows", "20", *more]
    return ["run", "embed", *options, "--model", "RoBERTa-base-ch", "--model-dir", str(home)]


def started(
    arguments: list[str], python: Sequence[str] = ("-m", "flagai"), limit: int | None = None
) -> subprocess.Popen[str]:
    """A command as a process of its own, whose files may have at most so many bytes."""

    def prepare() -> None:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, *python, *arguments],
        env=os.environ | {"FLAGAI_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and what was said."""
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def assert_same(one: Path, other: Path) -> None:
    """Both folders have the same files with the same bytes, locks aside."""
    names = sorted(path.name for path in one.iterdir() if not path.name.startswith(".lock"))
    assert names == sorted(path.name for path in other.iterdir() if not path.name.startswith(".lock"))
    _, different, errors = filecmp.cmpfiles(one, other, [name for name in names if name != "job.json"], shallow=False)
    assert (different, errors) == ([], [])


@pytest.fixture(scope="module")
def undisturbed(home: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a job that nothing disturbs."""
    out = tmp_path_factory.mktemp("jobs") / "whole"
    run(*command(home, texts, out))
    return out


def test_rows_and_errors(undisturbed: Path, texts: Path) -> None:
    parts = sorted(path for path in undisturbed.glob("texts-*.jsonl") if "errors" not in path.name)
    rows = [json.loads(line) for path in parts for line in path.open(encoding="utf-8")]
    assert len(parts) == 30
    assert [row["id"] for row in rows] == [number for number in range(600) if number not in (70, 333)]
    assert all(isinstance(row["embedding"], list) for row in rows)
    errors = [json.loads(line) for path in sorted(undisturbed.glob("*.errors.jsonl")) for line in path.open()]
    assert [(error["file"], error["line"]) for error in errors] == [(str(texts), 71), (str(texts), 334)]


def killed_until_done(home: Path, texts: Path, out: Path, times: int) -> None:
    chance = random.Random(times)
    for _ in range(times):
        process = started(command(home, texts, out))
        begun = time.monotonic()
        # Somewhere between the first part and the last one, or before the model is loaded.
        wanted = chance.randint(0, 29)
        while process.poll() is None and time.monotonic() - begun < 60:
            if out.is_dir() and len(list(out.glob("texts-*.jsonl"))) >= wanted:
                break
            time.sleep(chance.uniform(0, 0.01))
        process.kill()
        ended(process)
    code, said = ended(started(command(home, texts, out)))
    assert code == 0, said


def test_a_job_that_is_killed_continues(home: Path, texts: Path, undisturbed: Path, tmp_path: Path) -> None:
    killed_until_done(home, texts, tmp_path / "out", 2)
    assert_same(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_a_job_that_is_killed_two_hundred_times(home: Path, texts: Path, undisturbed: Path, tmp_path: Path) -> None:
    for round_ in range(20):
        killed_until_done(home, texts, tmp_path / f"out{round_}", 10)
        assert_same(tmp_path / f"out{round_}", undisturbed)


def test_a_full_disk_is_an_error_and_the_job_continues(
    home: Path, texts: Path, undisturbed: Path, tmp_path: Path
) -> None:
    largest = max(path.stat().st_size for path in undisturbed.glob("texts-*.jsonl"))
    code, said = ended(started(command(home, texts, tmp_path / "out"), limit=largest - 1))
    assert code == 1
    assert "error:" in said
    assert "Traceback" not in said
    assert len(list((tmp_path / "out").glob("texts-*.jsonl"))) < 31
    run(*command(home, texts, tmp_path / "out"))
    assert_same(tmp_path / "out", undisturbed)


def test_a_worker_that_is_killed_is_replaced(home: Path, texts: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = started(command(home, texts, out, "--devices", "cpu,cpu"))
    while process.poll() is None and not list(out.glob("texts-*.jsonl")):
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    code, said = ended(process)
    assert code == 0, said
    assert_same(out, undisturbed)


def test_two_ranks_share_the_parts(home: Path, texts: Path, undisturbed: Path, tmp_path: Path) -> None:
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "flagai"]
    code, said = ended(started(command(home, texts, tmp_path / "out"), several))
    assert code == 0, said
    assert said.count("15 parts in") == 2
    assert_same(tmp_path / "out", undisturbed)


def test_answers_of_two_models_are_not_mixed(home: Path, texts: Path, tmp_path: Path) -> None:
    out, short = tmp_path / "out", tmp_path / "texts.jsonl"
    short.write_text("".join(texts.read_text(encoding="utf-8").splitlines(keepends=True)[:40]), encoding="utf-8")
    run(*command(home, short, out))
    (out / "texts-000001.jsonl").unlink()
    (out / ".model").write_text("GLMModel 0123456789abcdef")
    assert "another model (GLMModel" in fails(InputError, *command(home, short, out))


def test_another_job_is_refused(home: Path, texts: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert "rows of a part: 20; now: 30" in fails(InputError, *command(home, texts, undisturbed, "--rows", "30"))
    assert "--normalize" in fails(InputError, *command(home, texts, undisturbed, "--normalize"))
    (tmp_path / "mine").touch()
    assert "other files" in fails(InputError, *command(home, texts, tmp_path))
    assert "names no file" in fails(InputError, *command(home, tmp_path / "*.jsonl", tmp_path / "new"))
    assert "not a task" in fails(InputError, "run", "sing", "--in", str(texts), "--out", str(tmp_path / "new"))


def test_wrong_options_of_the_task_are_errors(home: Path, texts: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, command(home, texts, tmp_path / "out", "--beam", "3"))
    assert result.exit_code == 2
    assert "--beam" in result.output
    assert "line 1 has no text in 'txt'" in fails(InputError, *command(home, texts, tmp_path / "o2", "--field", "txt"))
    assert "takes texts by --in" in fails(InputError, *command(home, texts, tmp_path / "o3", "--file", str(texts)))


@pytest.mark.slow
def test_an_actor_of_ray_that_is_killed_is_replaced(home: Path, texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    process = started(command(home, texts, tmp_path / "out", "--ray", "local", "--devices", "cpu,cpu"))
    seen: list[int] = []
    while process.poll() is None and not seen:
        time.sleep(0.2)
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if b"MapWorker" in entry.read_bytes() or b"Answerer" in entry.read_bytes():
                    seen.append(int(entry.parent.name))
            except OSError:
                continue
    assert seen, "no actor was found"
    os.kill(seen[0], signal.SIGKILL)
    code, said = ended(process)
    assert code == 0, said
    rows = [json.loads(line) for path in sorted((tmp_path / "out").glob("*.json")) for line in path.open()]
    assert sorted(row["id"] for row in rows if row.get("embedding")) == [
        number for number in range(600) if number not in (70, 333)
    ]
