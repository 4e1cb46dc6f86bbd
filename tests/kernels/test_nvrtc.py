"""Kernels in CUDA C++: how they are compiled and kept, with a compiler that only takes notes."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from flagai.kernels.cuda import nvrtc
from flagai.kernels.cuda.nvrtc import can_compile, image_of

OPTIONS = (("HIDDEN", 4096), ("RING", 20))


class Compiler(ModuleType):
    """Notes what it is given; its code is the source."""

    def __init__(self, refuses: bool) -> None:
        super().__init__("cuda.bindings.nvrtc")
        self.refuses, self.programs, self.flags, self.destroyed = refuses, [], [], 0  # type: ignore[var-annotated]

    def nvrtcVersion(self) -> tuple[int, int, int]:  # noqa: N802
        return 0, 13, 0

    def nvrtcCreateProgram(self, *given: Any) -> tuple[int, Any]:  # noqa: N802
        self.programs.append(given)
        return 0, given

    def nvrtcCompileProgram(self, _: Any, count: int, flags: list[bytes]) -> tuple[int]:  # noqa: N802
        self.flags = flags[:count]
        return (6 if self.refuses else 0,)

    def nvrtcGetProgramLogSize(self, _: Any) -> tuple[int, int]:  # noqa: N802
        return 0, 12

    def nvrtcGetProgramLog(self, _: Any, log: bytearray) -> tuple[int]:  # noqa: N802
        log[:] = b"line 3: what"
        return (0,)

    def nvrtcGetCUBINSize(self, program: Any) -> tuple[int, int]:  # noqa: N802
        return 0, len(program[0])

    def nvrtcGetCUBIN(self, program: Any, image: bytearray) -> tuple[int]:  # noqa: N802
        image[:] = program[0]
        return (0,)

    def nvrtcDestroyProgram(self, _: Any) -> tuple[int]:  # noqa: N802
        self.destroyed += 1
        return (0,)


@pytest.fixture
def compiler(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    class Kept:
        def __init__(self, key: str) -> None:
            self.folder = tmp_path / key

        def get_file(self, name: str) -> str | None:
            return str(self.folder / name) if (self.folder / name).exists() else None

        def put(self, data: bytes, name: str) -> str:
            self.folder.mkdir()
            (self.folder / name).write_bytes(data)
            return str(self.folder / name)

    found = Compiler(refuses=getattr(request, "param", False))
    bindings = ModuleType("cuda.bindings")
    bindings.nvrtc = found  # type: ignore[attr-defined]
    manager = ModuleType("triton.runtime.cache")
    manager.get_cache_manager = Kept  # type: ignore[attr-defined]
    for module in (ModuleType("cuda"), bindings, found, ModuleType("triton"), ModuleType("triton.runtime"), manager):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return found


def test_a_kernel_is_compiled_once(compiler: Compiler) -> None:
    image = image_of("megakernel", OPTIONS, (9, 0))
    source, name, count, headers, names = compiler.programs[0]
    assert image == source
    assert name == b"step.cu"
    assert count == len(headers) == len(names)
    # Everything that is included is there, and nothing else.
    assert {f'#include "{each.decode()}"' for each in names} == {
        line for text in (source, *headers) for line in text.decode().splitlines() if line.startswith("#include")
    }
    assert {b"--gpu-architecture=sm_90", b"-DHIDDEN=4096", b"-DRING=20"} <= set(compiler.flags)
    assert image_of("megakernel", OPTIONS, (9, 0)) == image
    assert len(compiler.programs) == compiler.destroyed == 1
    image_of("megakernel", OPTIONS, (10, 0))
    image_of("megakernel", (*OPTIONS[:1], ("RING", 19)), (9, 0))
    assert len(compiler.programs) == 3


@pytest.mark.parametrize("compiler", [True], indirect=True)
def test_what_the_compiler_says_is_passed_on(compiler: Compiler) -> None:
    with pytest.raises(RuntimeError, match=r"NVRTC refuses step\.cu with .*line 3: what"):
        image_of("megakernel", OPTIONS, (9, 0))
    assert compiler.destroyed == 1


def test_where_it_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"triton", "cuda.bindings"}
    monkeypatch.setattr(nvrtc, "find_spec", lambda name: name if name in present else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0) if device.index else (8, 0))
    can_compile.cache_clear()
    assert not can_compile(torch.device("cpu"))
    assert not can_compile(torch.device("cuda", 0))
    assert can_compile(torch.device("cuda", 1))
    present.remove("cuda.bindings")
    can_compile.cache_clear()
    assert not can_compile(torch.device("cuda", 1))
    can_compile.cache_clear()


def test_somebody_elses_module_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file cuda.py, say, where Python looks first: it has no bindings."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(nvrtc, "find_spec", lambda name: name == "triton" or find_spec(name))
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    can_compile.cache_clear()
    assert not can_compile(torch.device("cuda", 1))
    can_compile.cache_clear()
