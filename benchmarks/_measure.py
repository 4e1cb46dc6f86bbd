"""What all benchmarks share: fresh processes, memory, the raw read limit, and a description of the machine."""

import contextlib
import json
import mmap
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, Self

# Fits a core's L2 cache: the copy out of the page cache is measured, not a second trip to memory.
_CHUNK = 1 << 20
# Nothing may reach for a network or draw progress bars while the clock runs.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


class Worker:
    """A fresh Python process that gets ready, waits, does one task and holds the result until it is closed.

    The script prints "ready", waits for a line, prints "result " and JSON, and waits for a line again.

    Args:
        script: the program.
        task: its argument, as JSON.
    """

    def __init__(self, script: Path, task: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | _ENVIRONMENT,
        )
        self._errors: list[str] = []
        threading.Thread(target=self._drain, daemon=True).start()
        self._task = task

    def _drain(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._say()
        self._process.wait(timeout=60)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def _say(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def _expect(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.removeprefix(word)
        self._process.wait()
        raise RuntimeError(f"{self._task} ended before {word!r}:\n{''.join(self._errors)[-3000:]}")

    def wait_until_ready(self) -> None:
        """Wait until the imports are done."""
        self._expect("ready")

    def go(self) -> None:
        """Start the task."""
        self._say()

    def result(self) -> dict[str, Any]:
        """Wait for the task's end."""
        found: dict[str, Any] = json.loads(self._expect("result "))
        return found

    def leave(self, seconds: float) -> float | None:
        """Let the process end; seconds that it took, None if it had to be killed."""
        start = time.perf_counter()
        self._say()
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return None
        return round(time.perf_counter() - start, 2)

    def memory(self) -> dict[str, int]:
        """Bytes of RssAnon, VmRSS and VmHWM, now."""
        return _kilobytes(Path(f"/proc/{self.pid}/status"), ("RssAnon", "VmRSS", "VmHWM"))

    def pss(self) -> int:
        """Bytes of memory, shared pages divided among those who share them."""
        return _kilobytes(Path(f"/proc/{self.pid}/smaps_rollup"), ("Pss",))["Pss"]

    @contextlib.contextmanager
    def peak(self, interval: float = 0.001) -> Iterator[dict[str, int]]:
        """Sample while the body runs; the yielded dictionary has the largest RssAnon.

        The parent samples, so a child that keeps its interpreter lock cannot hide a peak.
        """
        found = {"RssAnon": 0}
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(interval):
                found["RssAnon"] = max(found["RssAnon"], self.memory()["RssAnon"])

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield found
        finally:
            stop.set()
            thread.join()


def _kilobytes(path: Path, keys: Sequence[str]) -> dict[str, int]:
    lines = (line.partition(":") for line in path.read_text(encoding="ascii").splitlines())
    return {key: 1024 * int(value.split()[0]) for key, _, value in lines if key in keys}


def run_python(code: str) -> str:
    """What a line of Python prints in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | _ENVIRONMENT
    )
    return done.stdout.strip()


def drop_from_cache(files: Sequence[Path]) -> bool:
    """Ask the system to forget the files; False where it does not."""
    if not hasattr(os, "posix_fadvise") or not hasattr(os, "RWF_NOWAIT"):
        return False
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return not any(_is_cached(file) for file in files)


def _is_cached(file: Path) -> bool:
    """Whether any of 16 places of a file can be read without waiting."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        for index in range(16):
            with contextlib.suppress(OSError):
                if os.preadv(opened.fileno(), [bytearray(1)], size * index // 16, os.RWF_NOWAIT):
                    return True
    return False


def claim_memory(size: int) -> None:
    """Take memory, write every page and give it back.

    A virtual machine returns free memory to its host; whoever takes it next waits for the host, not for the system
    under test. Called before each load, this makes both sides find the same.
    """
    with mmap.mmap(-1, size) as area:
        block = b"\1" * _CHUNK
        for begin in range(0, size, _CHUNK):
            area[begin : begin + _CHUNK] = block[: size - begin]


def read_limit(files: Sequence[Path], threads: Sequence[int] = (1, 2, 4), *, cold: bool = False) -> float:
    """Seconds to read the files with plain preads into one small buffer a thread; the best number of threads."""
    times = []
    for count in threads:
        if cold:
            drop_from_cache(files)
        times.append(_read(files, count))
    return min(times)


def _read(files: Sequence[Path], threads: int) -> float:
    buffers = [bytearray(_CHUNK) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(time.sleep, [0.001] * threads))  # the threads exist before the clock starts
        start = time.perf_counter()
        for file in files:
            size = file.stat().st_size
            borders = [size * index // threads for index in range(threads + 1)]
            list(pool.map(_read_range, [file] * threads, borders[:-1], borders[1:], buffers))
        return time.perf_counter() - start


def _read_range(file: Path, begin: int, end: int, buffer: bytearray) -> None:
    with file.open("rb", buffering=0) as opened, memoryview(buffer) as view:
        while begin < end:
            begin += os.preadv(opened.fileno(), [view[: end - begin]], begin)


def machine() -> dict[str, Any]:
    """The processor, its cores and the system; nothing that names the host."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": name,
        "cores": cores,
        "memory_GB": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load_average": round(os.getloadavg()[0], 2),
    }


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy by a kernel on the GPU (the copy node of a CUDA graph is slower)."""
    import torch

    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    for _ in range(2):
        target.copy_(source)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        target.copy_(source)
    torch.cuda.synchronize()
    return 20 * source.nbytes / (time.perf_counter() - start)


def versions() -> dict[str, str | None]:
    """Python, the libraries and the commit."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for library in ("flagai", "torch", "transformers", "safetensors"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    found["commit"] = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "src")
    found["changed"] = None if changed is None else f"{len(changed.splitlines())} files in src"
    return found


def _git(*arguments: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        here = Path(__file__).parent.parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    return None
