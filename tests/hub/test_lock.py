"""Any number of processes, one transfer per folder; killed ones are followed by others."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flagai.errors import HubError
from flagai.hub import ensure
from flagai.hub.lock import Lock, acquire, read_beat
from flagai.hub.policy import Policy
from tests.hub.conftest import FILES, QUICK, WEIGHTS, contents
from tests.hub.server import Fault, Hub

NAME = "pytorch_model.bin"
PROGRAM = """
import sys
from dataclasses import replace
from flagai.hub import ensure
from tests.hub.conftest import QUICK
print("started", flush=True)
folder = ensure(sys.argv[1], sys.argv[2], policy=replace(QUICK, connections=int(sys.argv[3])))
assert (folder / "pytorch_model.bin").stat().st_size == 1_280_000
assert "torch" not in sys.modules
"""
RANKS = """
import os, sys
import torch.distributed as dist
from datetime import timedelta
from flagai.hub import ensure
from flagai.errors import HubError
from tests.hub.conftest import QUICK
rank, node = int(sys.argv[3]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + sys.argv[4], rank=rank, world_size=int(sys.argv[5]))
try:
    ensure(sys.argv[1], node, policy=QUICK)
except HubError as error:
    print("error", str(error).count("given up"), flush=True)
dist.barrier()
"""


def start(program: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(processes: "list[subprocess.Popen[str]]") -> None:
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors


def holder(folder: Path) -> int:
    """The process that fetches into a folder."""
    while True:
        beat = read_beat(folder / ".flagai")
        if beat is not None and beat.owner:
            return int(beat.where.split()[1])
        time.sleep(0.01)


def overlap(ranges: list[tuple[int, int]]) -> int:
    """How many bytes were sent more than once."""
    twice, reached = 0, 0
    for begin, end in ranges:
        twice += max(0, min(reached, end) - begin)
        reached = max(reached, end)
    return twice


def test_eight_processes_on_two_nodes_one_of_them_killed(hub: Hub, tmp_path: Path) -> None:
    hub.speed = 0.05
    folders = [tmp_path / "node0", tmp_path / "node1"]
    processes = [start(PROGRAM, f"hf:owner{n}/glm", folders[n], 1) for n in range(2) for _ in range(8)]
    for n in range(2):
        hub.models[f"owner{n}/glm"] = dict(FILES)
    victim = holder(folders[0])
    while sum(end - begin for begin, end in hub.bytes_sent(f"owner0/glm/{NAME}")) < 300_000:
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    finish([process for process in processes if process.pid != victim])
    for process in processes:
        process.wait()
    for n, folder in enumerate(folders):
        assert contents(folder) == FILES
        assert not (folder / ".flagai").exists()
        sent = hub.bytes_sent(f"owner{n}/glm/{NAME}")
        assert sent[0][0] == 0
        assert max(end for _, end in sent) == len(WEIGHTS)
        # What was on its way to the killed process is sent again: its unnoted second and the socket's buffers.
        assert overlap(sent) <= (len(WEIGHTS) // 2 if n == 0 else 0)
        others = [
            entry.count
            for name in ("config.json", "vocab.txt")
            for entry in hub.requests(f"owner{n}/glm")
            if entry.path.endswith(name)
        ]
        assert len([count for count in others if count]) == 2


def test_a_failure_reaches_all_who_wait_without_further_attempts(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {NAME: Fault(status=500, slow=0.1)}
    errors = []

    def call() -> None:
        try:
            ensure("hf:owner/glm", tmp_path / "m", policy=Policy(attempts=3, backoff=0.5, heartbeat=0.1))
        except HubError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(errors) == 6
    assert len([entry for entry in hub.requests("/cdn/") if entry.status == 500]) == 3


@pytest.mark.torch
@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_of_a_node_download_once(hub: Hub, tmp_path: Path, nodes: int) -> None:
    ranks = range(2 * nodes)
    folders = [tmp_path / f"node{rank // 2}" for rank in ranks]
    processes = [start(RANKS, "hf:owner/glm", folders[r], r, tmp_path / "store", len(ranks)) for r in ranks]
    finish(processes)
    for folder in folders:
        assert contents(folder) == FILES
    assert len(hub.bytes_sent("vocab.txt")) == len(set(folders))


@pytest.mark.torch
@pytest.mark.slow
def test_a_failure_reaches_all_ranks(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {NAME: Fault(status=500)}
    processes = [start(RANKS, "hf:owner/glm", tmp_path / "m", r, tmp_path / "store", 3) for r in range(3)]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert outputs == ["error 1\n"] * 3
    assert len([entry for entry in hub.requests("/cdn/") if entry.status == 500]) == QUICK.attempts


FAST = Policy(heartbeat=0.05, stale=0.5, patience=1.0)


def take(folder: Path, policy: Policy = FAST) -> Lock:
    lock = acquire(folder, policy, lambda: False, lambda _: None)
    assert lock is not None
    return lock


def test_a_lock_without_heartbeat_is_taken_over_and_its_owner_notices(tmp_path: Path) -> None:
    first = take(tmp_path, replace(FAST, heartbeat=1e6))  # as if the process were stopped
    begin = time.monotonic()
    with take(tmp_path) as second:
        assert time.monotonic() - begin >= FAST.stale
        assert second.number == first.number + 1
        assert not first.still_mine()
        assert second.still_mine()
        with first:  # wakes up, ends, and does no harm
            pass
        assert second.still_mine()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_lock_that_was_never_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "lock.1").touch()
    with take(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_only_one_of_many_takes_over(tmp_path: Path) -> None:
    (tmp_path / "lock.1").write_text(json.dumps({"owner": "x", "where": "process 1 on a", "progress": 0}))
    inside, most, guard = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with take(tmp_path, Policy(heartbeat=0.05, stale=0.5, patience=30)):
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.05)
            with guard:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    with take(tmp_path), pytest.raises(HubError, match=rf"process {os.getpid()} on .* has not moved a byte"):
        take(tmp_path)


def test_a_lock_that_nobody_can_read_nor_make_is_not_waited_for_forever(tmp_path: Path) -> None:
    (tmp_path / "lock.1").mkdir()
    begin = time.monotonic()
    with pytest.raises(HubError, match=r"lock\.1 that cannot be read.*Remove"):
        take(tmp_path)
    assert time.monotonic() - begin < 60


def test_a_lock_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            take(tmp_path)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_lost_its_lock_stops_and_waits(hub: Hub, tmp_path: Path) -> None:
    hub.speed = 0.05
    folder = tmp_path / "m"
    thread = threading.Thread(target=ensure, args=("hf:owner/glm", folder), kwargs={"policy": QUICK})
    thread.start()
    holder(folder)
    other = folder / ".flagai" / "lock.9"
    for beat in range(20):  # a process that has taken over and lives
        other.write_text(f"another {beat}")
        time.sleep(0.1)
        if beat == 10:  # a heartbeat and a pause later
            asked = len(hub.requests())
    assert contents(folder) == {}
    assert len(hub.requests()) == asked
    thread.join(20)  # now it is silent: it is taken over in its turn
    assert contents(folder) == FILES
