"""Clients of a server for its benchmarks: many connections, of one process or of several."""

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Call = tuple[str, dict[str, Any]]  # a path and a body
Row = tuple[float, int, bytes]  # seconds, status and body of an answer


async def ask(host: str, port: int, calls: Sequence[Call], connections: int) -> list[Row]:
    """The answers to calls over so many connections."""
    coming = iter(range(len(calls)))
    found: list[Any] = [None] * len(calls)

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for number in coming:
            path, content = calls[number]
            body = json.dumps(content).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            begin = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answered = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(answered.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            answer = await reader.readexactly(length)
            found[number] = (time.perf_counter() - begin, int(answered.split(b" ", 2)[1]), answer)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return found


def _ask(host: str, port: int, calls: Sequence[Call], connections: int) -> list[Row]:
    return asyncio.run(ask(host, port, calls, connections))


class Clients:
    """Processes of clients.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))
        list(self._pool.map(abs, range(count)))  # they have begun

    def ask(self, host: str, port: int, calls: Sequence[Call], connections: int) -> list[Row]:
        """The answers to calls over so many connections, which the processes share."""
        count = self._count
        work = [
            self._pool.submit(_ask, host, port, calls[number::count], connections // count) for number in range(count)
        ]
        found: list[Any] = [None] * len(calls)
        for number, each in enumerate(work):
            found[number::count] = each.result()
        return found


@contextmanager
def server(*arguments: str) -> Iterator[tuple[str, int, int]]:
    """A server of models: its host, its port and its process."""
    command = [sys.executable, "-m", "flagai", "serve", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().rpartition("http://")[2].strip().partition(":")
        yield host, int(port), process.pid
        process.terminate()


def cpu_seconds(process: int) -> float:
    """What a process and its children have computed, on a machine that others may use, too."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, map(int, children)))
