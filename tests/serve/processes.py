"""Real servers: processes on free ports of the loopback."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

# Seconds in which a server must answer, also on a busy machine.
PATIENCE = 120


class ServerProcess:
    """A server, and what it has written."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._read_log, daemon=True),
            threading.Thread(target=self._read_output, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.address = self._told.get(timeout=PATIENCE)
        if not self.address:
            process.wait(PATIENCE)
            self._threads[0].join(PATIENCE)
            raise RuntimeError("\n".join(self.lines))
        self.client = httpx.Client(base_url=self.address, timeout=PATIENCE, trust_env=False)

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.address.removeprefix("http://").partition(":")
        return host, int(port)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def answer(self, path: str, **body: Any) -> Any:
        """The answer to a request that must succeed."""
        found = self.post(path, **body)
        assert found.status_code == 200, found.text
        return found.json()

    def events(self, path: str, **body: Any) -> list[Any]:
        """The events of a stream."""
        text = self.client.post(path, json=body | {"stream": True}).text
        parts = [line.removeprefix("data: ") for line in text.splitlines() if line]
        return [part if part == "[DONE]" else json.loads(part) for part in parts]

    def metric(self, name: str, *labels: str) -> float:
        """The sum of a metric's values whose labels contain these texts."""
        lines = self.client.get("/metrics").text.splitlines()
        found = [line for line in lines if line.partition("{")[0] == name and all(label in line for label in labels)]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Its exit status; it must end."""
        status = self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        self.client.close()
        return status

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("{"):
                self.log.append(json.loads(line))

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if " at http://" in line:
                self._told.put(line.rstrip("\n").rpartition(" at ")[2])
        self._told.put("")


@contextmanager
def serving(home: Path, *arguments: str, **environment: str) -> Iterator[ServerProcess]:
    """A server of models.

    Args:
        home: the model directory.
        *arguments: of ``flagai serve``.
        **environment: variables.
    """
    command = [sys.executable, "-m", "flagai", "serve", *arguments, "--port", "0", "--model-dir", str(home)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | environment
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
    try:
        server = ServerProcess(process)
        yield server
        if process.poll() is None:
            assert server.stop() == 0, server.lines[-5:]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
