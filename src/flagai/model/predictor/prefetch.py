"""Many texts in windows: while a device computes one, the host reads the next and fetches the one before."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import torch

from flagai.data.ragged import Ragged

# Texts that are sorted by length together. On a CPU, runs of equal length are worth most; on a GPU the first window
# should be there soon, and nothing is gained by sorting more.
CPU_TEXTS = 16384
GPU_TEXTS = 4096
# Windows that are read before they are needed.
_AHEAD = 2

Read = Callable[[Any], Ragged]


def pipelined(
    texts: Sequence[Any], read: Read, run: Callable[[Ragged], torch.Tensor], device: torch.device
) -> torch.Tensor:
    """One row per text.

    Args:
        texts: the texts; at least one.
        read: makes token ids of some of them.
        run: computes their rows on the device, [n, width], and does not wait for it.
        device: the device.

    Shape:
        -> [N, width], on the CPU
    """
    if device.type != "cuda":
        return torch.cat([run(read(part)).cpu() for part in _cut(texts, CPU_TEXTS)])
    found = HostCollector(len(texts))
    for rows in read_ahead(_cut(texts, GPU_TEXTS), read):
        found.add(run(rows))
    return found.all()


def _cut(texts: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [texts[begin : begin + size] for begin in range(0, len(texts), size)]


def read_ahead(parts: Sequence[Any], read: Read) -> Iterator[Ragged]:
    """Read parts on a thread of its own; tokenizers leave the interpreter to others meanwhile."""
    with ThreadPoolExecutor(1, "flagai-tokens") as reader:
        waiting: list[Future[Ragged]] = []
        for part in parts:
            waiting.append(reader.submit(read, part))
            if len(waiting) > _AHEAD:
                yield waiting.pop(0).result()
        yield from (each.result() for each in waiting)


class HostCollector:
    """Rows that come from a GPU part by part; one part is on its way while the next is being computed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._rows: torch.Tensor | None = None
        self._filled = 0
        self._coming: tuple[torch.Tensor, torch.cuda.Event] | None = None

    def add(self, rows: torch.Tensor) -> None:
        """Take rows that the device has yet to compute, and those of before, which should be there by now."""
        if self._rows is None:
            self._rows = torch.empty(self._count, rows.shape[1], dtype=rows.dtype)
        here = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        here.copy_(rows, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(rows.device))
        self._take()
        self._coming = here, done

    def all(self) -> torch.Tensor:
        """All rows, [count, width]."""
        self._take()
        return cast(torch.Tensor, self._rows)

    def _take(self) -> None:
        if self._coming is not None and self._rows is not None:
            here, done = self._coming
            done.synchronize()
            self._rows[self._filled : self._filled + len(here)] = here
            self._filled += len(here)
            self._coming = None
