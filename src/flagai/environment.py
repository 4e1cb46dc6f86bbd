"""What a report of a bug needs to know of this machine; it works without torch and without a GPU, and never fails."""

import importlib.metadata
import locale
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flagai import settings
from flagai.absent import DISTRIBUTION
from flagai.errors import quoted
from flagai.hub.progress import readable
from flagai.system import memory_bytes, usable_cores

Section = dict[str, Any]
_SECONDS = 10  # for the driver's own program
# Other libraries that models are exchanged with, or compared with.
_PEERS = (
    *("numpy", "safetensors", "tokenizers", "huggingface_hub", "accelerate", "peft", "transformers"),
    *("sentence-transformers", "torch_npu", "vllm", "flagai"),
)
_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*(?:;.*extra\s*==\s*['\"]([\w-]+)['\"])?")


def report() -> dict[str, Section]:
    """Versions, devices, packages, folders and variables, in sections; what cannot be told says why instead.

    Returns:
        Sections with values for JSON. Secrets are hidden.
    """
    sections: dict[str, Callable[[], Section]] = {
        "flagai": _flagai,
        "system": _system,
        "torch": _torch,
        "devices": _devices,
        "packages": _packages,
        "extras": _extras,
        "folders": _folders,
        "variables": settings.telling,
        "notes": _notes,
    }
    return {name: _told(section) for name, section in sections.items()}


def _told(section: Callable[[], Section]) -> Section:
    try:
        return section()
    except Exception as error:  # noqa: BLE001 - a report of what is broken must not break
        return {"error": f"{type(error).__name__}: {quoted(error)}"}


def _flagai() -> Section:
    from flagai import __version__

    return {"version": __version__, "distribution": _installed(DISTRIBUTION), "folder": str(Path(__file__).parent)}


def _system() -> Section:
    libc = " ".join(platform.libc_ver())
    return {
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})",
        "system": platform.platform(),
        "machine": platform.machine(),
        "libc": libc or None,
        "cores": usable_cores(),
        "memory": readable(memory_bytes()),
        "encoding": f"stdout {sys.stdout.encoding}, files {sys.getfilesystemencoding()}, locale {locale.getencoding()}",
    }


def _torch() -> Section:
    if find_spec("torch") is None:
        return {"version": None}
    import torch

    cpu = getattr(torch.backends, "cpu", None)
    return {
        "version": torch.__version__,
        "CUDA": torch.version.cuda,
        "ROCm": torch.version.hip,
        "cuDNN": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "threads": torch.get_num_threads(),
        "instructions": None if cpu is None else cpu.get_cpu_capability(),
        "oneDNN": torch.backends.mkldnn.is_available(),
        "MKL": torch.backends.mkl.is_available(),
        "Triton": _installed("triton"),
    }


def _devices() -> Section:
    found: Section = {}
    driver = nvidia_driver()
    if driver is not None:
        found["NVIDIA driver"] = driver
    if find_spec("torch") is None:
        return found
    import torch

    from flagai.device_support import has_bfloat16, has_float64

    kind = torch.accelerator.current_accelerator()
    if kind is None or not torch.accelerator.is_available():
        return {**found, "accelerator": None}
    for number in range(torch.accelerator.device_count()):
        device = torch.device(kind.type, number)
        entry: Section = {"bfloat16": has_bfloat16(device), "float64": has_float64(device)}
        entry |= _told(lambda device=device: _memory(device))  # type: ignore[misc]  # called at once
        if kind.type == "cuda":
            major, minor = torch.cuda.get_device_capability(device)
            triton = (major, minor) >= (8, 0) and find_spec("triton") is not None
            kernels = ["CUDA graphs", *["Triton"] * triton, *["one kernel for all blocks"] * (triton and major == 9)]
            entry |= {"name": torch.cuda.get_device_name(device), "capability": f"{major}.{minor}", "kernels": kernels}
        found[str(device)] = entry
    return found


def _memory(device: Any) -> Section:
    import torch

    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return {}
    free, total = module.mem_get_info(device)
    return {"memory": readable(total), "free": readable(free)}


def nvidia_driver() -> str | None:
    """The driver and the GPUs, as its own program tells them; None without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version,name,memory.total,compute_cap", "--format=csv,noheader"]
    done = subprocess.run(  # noqa: S603 - nothing of it comes from outside
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=_SECONDS, check=False
    )
    return "; ".join(quoted(line) for line in (done.stdout or done.stderr).strip().splitlines()) or None


def _requirements() -> Iterator[tuple[str, str | None]]:
    """The packages that the distribution asks for, each with its extra."""
    asked = (
        importlib.metadata.requires(DISTRIBUTION) if _installed(DISTRIBUTION) else ()
    )  # a clone need not be installed
    for entry in asked or ():
        found = _REQUIREMENT.match(entry)
        if found is not None and found[1] != DISTRIBUTION:
            yield found[1], found[2]


def _packages() -> Section:
    needed = [name for name, extra in _requirements() if extra is None]
    return {name: _installed(name) for name in needed} | {name: found for name in _PEERS if (found := _installed(name))}


def _extras() -> Section:
    found: dict[str, dict[str, str | None]] = {}
    for name, extra in _requirements():
        if extra is not None:
            found.setdefault(extra, {})[name] = _installed(name)
    return {extra: names for extra, names in found.items() if extra not in ("test", "dev", "docs")}


def _folders() -> Section:
    return {
        "FLAGAI_HOME": _folder(settings.home()),
        "HF_HUB_CACHE": _folder(settings.hf_cache()),
        "temporary": _folder(Path(tempfile.gettempdir())),
    }


def _folder(path: Path) -> str:
    whole = path.absolute()
    there = next(place for place in (whole, *whole.parents) if place.exists())
    state = "" if there == whole else ", absent"
    return f"{whole}{state}, {readable(shutil.disk_usage(there).free)} free"


def _notes() -> Section:
    """What is likely to be the reason of a bug."""
    found: Section = {}
    torch = _torch()
    if torch["version"] is None:
        found["torch"] = "PyTorch is not installed; models need it"
    elif nvidia_driver() is not None and torch["CUDA"] is None:
        found["torch"] = "there is an NVIDIA driver, but this PyTorch is for the CPU: see docs/how-to/install.md"
    elif nvidia_driver() is not None and "error" not in (devices := _devices()) and len(devices) == 1:
        found["devices"] = "there is an NVIDIA driver, but PyTorch sees no GPU: compare its CUDA with the driver's"
    return found


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
