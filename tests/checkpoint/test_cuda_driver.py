"""The driver's calls, with a library that is played: what it is asked, and what becomes of its answers."""

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch

from flagai.checkpoint.stream import cuda_driver as drivers
from flagai.checkpoint.stream.cuda_driver import Driver

EVENT, FAR = 0x7F00_0000_1230, (1 << 47) + 5
_POINTER = ctypes.c_void_p
_CALLS: dict[str, tuple[Any, ...]] = {
    "cuMemcpyHtoDAsync_v2": (ctypes.c_uint64, _POINTER, ctypes.c_size_t, _POINTER),
    "cuEventCreate": (_POINTER, ctypes.c_uint),
    "cuEventDestroy_v2": (_POINTER,),
    "cuEventRecord": (_POINTER, _POINTER),
    "cuEventQuery": (_POINTER,),
    "cuEventSynchronize": (_POINTER,),
}


class Library:
    """Functions in C's manner, so that arguments are converted as for the real ones."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.seen: list[tuple[Any, ...]] = []
        for name, types in _CALLS.items():
            setattr(self, name, ctypes.PYFUNCTYPE(ctypes.c_int, *types)(self._answering(name)))

    def _answering(self, name: str) -> Callable[..., int]:
        def answer(*given: Any) -> int:
            self.seen.append((name, *given))
            if name == "cuEventCreate":
                ctypes.cast(given[0], ctypes.POINTER(_POINTER))[0] = EVENT
            return self.codes.get(name, 0)

        return answer


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> tuple[Library, Library]:
    """The one whose calls keep the GIL, and the one whose calls give it away."""
    quick, slow = Library(), Library()
    monkeypatch.setattr(drivers.ctypes, "PyDLL", lambda _: quick)
    monkeypatch.setattr(drivers.ctypes, "CDLL", lambda _: slow)
    return quick, slow


def test_calls(libraries: tuple[Library, Library]) -> None:
    """Addresses and sizes have 64 bits; only waiting gives the lock away."""
    quick, slow = libraries
    driver = Driver()
    event = driver.make_event()
    assert event == EVENT
    assert quick.seen.pop()[2] == 3
    driver.copy(FAR, FAR + 1, 5 << 30, FAR + 2)
    driver.record(event, FAR)
    driver.wait(event)
    assert quick.seen == [
        ("cuMemcpyHtoDAsync_v2", FAR, FAR + 1, 5 << 30, FAR + 2),
        ("cuEventRecord", event, FAR),
        ("cuEventQuery", event),
    ]
    assert not slow.seen
    quick.codes["cuEventQuery"] = 600
    driver.wait(event)
    assert slow.seen == [("cuEventSynchronize", event)]
    driver.free_event(event)
    assert quick.seen[-1] == ("cuEventDestroy_v2", event)


@pytest.mark.parametrize("code", [201, 700])
def test_refusals_are_told(code: int, libraries: tuple[Library, Library]) -> None:
    quick, slow = libraries
    driver = Driver()
    works: dict[str, Callable[[], object]] = {
        "cuMemcpyHtoDAsync_v2": lambda: driver.copy(1, 1, 1, 1),
        "cuEventCreate": driver.make_event,
        "cuEventRecord": lambda: driver.record(1, 1),
        "cuEventDestroy_v2": lambda: driver.free_event(1),
        "cuEventQuery": lambda: driver.wait(1),
    }
    for name, work in works.items():
        quick.codes[name] = code
        with pytest.raises(RuntimeError, match=f"driver's code {code}"):
            work()
    quick.codes["cuEventQuery"], slow.codes["cuEventSynchronize"] = 600, code
    with pytest.raises(RuntimeError, match=f"driver's code {code}"):
        driver.wait(1)


@pytest.fixture
def _forgotten() -> None:
    drivers.driver.cache_clear()


@pytest.mark.usefixtures("_forgotten")
def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch, libraries: tuple[Library, Library]) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert isinstance(drivers.driver(), Driver)
    drivers.driver.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", None)  # a torch for other devices
    assert drivers.driver() is None
    drivers.driver.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    def missing(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(drivers.ctypes, "PyDLL", missing)
    assert drivers.driver() is None
    drivers.driver.cache_clear()
