"""Kernels in CUDA C++ that are compiled where they run, by NVRTC: torch brings the compiler and its bindings along."""

import ctypes
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import torch

# Types of arguments that are no tensors.
_NUMBERS: dict[type, Any] = {int: ctypes.c_int, float: ctypes.c_float}


# Kernels copy by the engine that GPUs have since Hopper.
_CAPABILITY = (9, 0)


@cache
def can_compile(device: torch.device) -> bool:
    """Whether kernels can be compiled for a device, and run there."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= _CAPABILITY
        and all(find_spec(name) is not None for name in ("triton", "cuda", "cuda.bindings"))
    )


@dataclass(frozen=True)
class CudaKernel:
    """A compiled kernel.

    Args:
        function: the driver's handle.
        shared: bytes of shared memory of a program.
    """

    function: Any
    shared: int

    @classmethod
    @cache
    def of(cls, file: str, name: str, options: tuple[tuple[str, int], ...], shared: int, device: torch.device) -> Any:
        """Compile a kernel, or take what an earlier process compiled.

        Args:
            file: its source, in this folder.
            name: its name in there.
            options: what the source leaves open, with values.
            shared: bytes of shared memory that a program takes.
            device: where it will run.

        Raises:
            RuntimeError: the compiler or the driver refuses it.
        """
        from cuda.bindings import driver

        image = _image(file, options, torch.cuda.get_device_capability(device))
        with torch.cuda.device(device):
            torch.cuda.current_stream()  # the driver has a context from here on
            module = _checked(driver.cuModuleLoadData(image))
            function = _checked(driver.cuModuleGetFunction(module, name.encode()))
            most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _checked(driver.cuFuncSetAttribute(function, most, shared))
        return cls(function, shared)

    def run_together(self, programs: int, threads: int, *arguments: torch.Tensor | int | float) -> None:
        """Queue programs that may wait for each other: all run at once, or it is an error.

        Args:
            programs: how many.
            threads: of each.
            arguments: tensors, whole numbers of 32 bits and floats.
        """
        from cuda.bindings import driver

        values = tuple(each.data_ptr() if isinstance(each, torch.Tensor) else each for each in arguments)
        types = tuple(_NUMBERS.get(type(each), ctypes.c_void_p) for each in arguments)
        stream = torch.cuda.current_stream().cuda_stream
        _checked(
            driver.cuLaunchCooperativeKernel(
                self.function, programs, 1, 1, threads, 1, 1, self.shared, stream, (values, types)
            )
        )


def _image(file: str, options: tuple[tuple[str, int], ...], capability: tuple[int, int]) -> bytes:
    from cuda.bindings import nvrtc
    from triton.runtime.cache import get_cache_manager

    source = files(__package__).joinpath(file).read_bytes()
    target = f"--gpu-architecture=sm_{capability[0]}{capability[1]}"
    flags = [b"--std=c++17", target.encode(), *(f"-D{name}={value}".encode() for name, value in options)]
    version = nvrtc.nvrtcVersion()
    key = hashlib.sha256(b"\0".join([source, repr(version).encode(), *flags])).hexdigest()
    # Kernels of Triton and of NVRTC lie in one place; it is Triton that knows how processes share it.
    kept = get_cache_manager(key)
    place = kept.get_file(f"{file}.cubin")
    if place is None:
        place = kept.put(_compiled(source, file, flags), f"{file}.cubin")
    with open(place, "rb") as image:
        return image.read()


def _compiled(source: bytes, file: str, flags: list[bytes]) -> bytes:
    from cuda.bindings import nvrtc

    program = _checked(nvrtc.nvrtcCreateProgram(source, file.encode(), 0, [], []))
    try:
        if int(nvrtc.nvrtcCompileProgram(program, len(flags), flags)[0]):
            log = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"{file} cannot be compiled with {flags}: {log.decode(errors='replace')}")
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
