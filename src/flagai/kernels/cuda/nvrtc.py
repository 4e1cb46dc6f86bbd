"""Kernels in CUDA C++ that are compiled where they run, by NVRTC: torch brings the compiler and its bindings along."""

import ctypes
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

# Kernels copy by the engine that GPUs have since Hopper.
_CAPABILITY = (9, 0)
# Types of arguments that are no tensors.
_NUMBERS: dict[type, Any] = {int: ctypes.c_int, float: ctypes.c_float}
Options = tuple[tuple[str, int], ...]


@cache
def can_compile(device: torch.device) -> bool:
    """Whether kernels can be compiled for a device, and run there."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _CAPABILITY:
        return False
    try:
        return all(find_spec(name) is not None for name in ("triton", "cuda.bindings"))
    except ImportError:  # there is no package `cuda`, or it is another package's module
        return False


@dataclass(frozen=True)
class CudaKernel:
    """A compiled kernel.

    Args:
        function: the driver's handle.
        shared: bytes of shared memory of a program.
        device: where it runs.
    """

    function: Any
    shared: int
    device: torch.device

    @classmethod
    @cache
    def of(cls, folder: str, name: str, options: Options, shared: int, device: torch.device) -> "CudaKernel":
        """Compile a kernel, or take what an earlier process compiled.

        Args:
            folder: where its source is, beside this file: one ``.cu`` and what it includes.
            name: its name in there.
            options: what the source leaves open, with values.
            shared: bytes of shared memory that a program takes.
            device: where it will run.

        Raises:
            RuntimeError: the compiler or the driver refuses it.
        """
        from cuda.bindings import driver

        image = image_of(folder, options, torch.cuda.get_device_capability(device))
        with torch.cuda.device(device):
            torch.cuda.current_stream().query()  # the driver has a context on this thread from here on
            module = _checked(driver.cuModuleLoadData(image))
            function = _checked(driver.cuModuleGetFunction(module, name.encode()))
            most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _checked(driver.cuFuncSetAttribute(function, most, shared))
        return cls(function, shared, device)

    def run_together(self, programs: int, threads: int, *arguments: torch.Tensor | int | float) -> None:
        """Queue programs that may wait for each other: all run at once, or it is an error.

        Args:
            programs: how many.
            threads: of each.
            *arguments: tensors, integers of 32 bits and floats.
        """
        from cuda.bindings import driver

        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream().cuda_stream
            grid, block = (programs, 1, 1), (threads, 1, 1)
            _checked(
                driver.cuLaunchCooperativeKernel(
                    self.function, *grid, *block, self.shared, stream, _launch_arguments(arguments)
                )
            )

    def run_early(self, programs: int, threads: int, *arguments: torch.Tensor | int | float | None) -> None:
        """Queue programs that begin before the kernel in front has ended (programmatic dependent launch).

        Args:
            programs: how many.
            threads: of each.
            *arguments: tensors, integers of 32 bits and floats; None is a null pointer.
        """
        from cuda.bindings import driver

        early, config = driver.CUlaunchAttribute(), driver.CUlaunchConfig()
        early.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        early.value.programmaticStreamSerializationAllowed = 1
        config.gridDimX, config.gridDimY, config.gridDimZ = programs, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes, config.attrs, config.numAttrs = self.shared, [early], 1
        with torch.cuda.device(self.device):
            config.hStream = torch.cuda.current_stream().cuda_stream
            _checked(driver.cuLaunchKernelEx(config, self.function, _launch_arguments(arguments), 0))


def _launch_arguments(arguments: tuple[torch.Tensor | int | float | None, ...]) -> tuple[Any, ...]:
    """Values and their types, as the driver's bindings take them."""
    values = tuple(each.data_ptr() if isinstance(each, torch.Tensor) else each or 0 for each in arguments)
    return values, tuple(_NUMBERS.get(type(each), ctypes.c_void_p) for each in arguments)


def image_of(folder: str, options: Options, capability: tuple[int, int]) -> bytes:
    """The code for GPUs of a capability; from the compiler, or from where it was put the last time.

    Raises:
        RuntimeError: the compiler refuses the source; the text says why.
    """
    from cuda.bindings import nvrtc
    from triton.runtime.cache import get_cache_manager

    here = files(__package__)
    headers = (each for each in here.iterdir() if each.name.endswith(".cuh"))  # that kernels share
    sources = {each.name: each.read_bytes() for each in (*headers, *here.joinpath(folder).iterdir())}
    target = f"--gpu-architecture=sm_{capability[0]}{capability[1]}"
    flags = [b"--std=c++17", target.encode(), *(f"-D{name}={value}".encode() for name, value in options)]
    everything = repr((sorted(sources.items()), flags, nvrtc.nvrtcVersion()))
    # Kernels of Triton and of NVRTC lie in one place; it is Triton that knows how processes share it.
    kept, name = get_cache_manager(hashlib.sha256(everything.encode()).hexdigest()), f"{folder}.cubin"
    place = kept.get_file(name) or kept.put(_compiled(sources, flags), name)
    return Path(place).read_bytes()


def _compiled(sources: Mapping[str, bytes], flags: list[bytes]) -> bytes:
    from cuda.bindings import nvrtc

    (main,) = (name for name in sources if name.endswith(".cu"))
    headers = {name.encode(): source for name, source in sources.items() if name != main}
    program = _checked(
        nvrtc.nvrtcCreateProgram(sources[main], main.encode(), len(headers), [*headers.values()], [*headers])
    )
    try:
        if int(nvrtc.nvrtcCompileProgram(program, len(flags), flags)[0]):
            log = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"NVRTC refuses {main} with {flags}: {log.decode(errors='replace')}")
        image = bytearray(_checked(nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc.nvrtcGetCUBIN(program, image))
        return bytes(image)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _checked(answer: tuple[Any, ...]) -> Any:
    """What a call of the bindings gives, without its status."""
    if int(answer[0]):
        raise RuntimeError(f"CUDA says {answer[0]!r}.")
    return answer[1] if len(answer) > 1 else None
