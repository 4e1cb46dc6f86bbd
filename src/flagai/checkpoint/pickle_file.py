"""Read ``torch.save`` files without executing anything that they contain."""

import pickle
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flagai.errors import CheckpointError


class Discarded:
    """Stands in for harmless objects that lie beside the weights (random states, argument lists)."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


# Types that training frameworks leave in their dumps. None of them is imported: each becomes a `Discarded`.
_HARMLESS = (
    "argparse.Namespace",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.dtypes.{kind}DType" for kind in ("UInt32", "UInt64", "Int32", "Int64", "Float32", "Float64", "Bool")),
)
_CURE = "Name the file that holds the model's state dict."
# Training dumps keep the weights under one of these keys.
_WRAPPERS = ("module", "state_dict", "model_state_dict")
# The list of harmless types is torch's for the whole process: one thread must not withdraw what another one needs.
_ONE_AT_A_TIME = threading.Lock()


def open_pickle(path: Path) -> dict[str, torch.Tensor]:
    """Map a ``.bin``/``.pt`` file and return its tensors by name.

    Files in torch's zip format are mapped; older ones are read whole. Only tensors and plain containers are
    rebuilt; any other type in the file is either known to be harmless, and dropped, or an error.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file is damaged, holds no tensors, or asks for code to be run.
    """
    if not path.stat().st_size:
        raise CheckpointError(f"{path} is empty. Fetch it again.")
    content, records = _load(path)
    tensors = _tensors(path, content)
    for name, tensor in tensors.items():
        if records is not None and tensor.numel() and tensor.untyped_storage().nbytes() not in records:
            raise CheckpointError(f"{path} is damaged: {name!r} is not one whole record of it. Fetch it again.")
    return tensors


def _load(path: Path) -> tuple[Any, set[int] | None]:
    """The content of a file and, if it is mapped, the sizes of its records."""
    allowed = [(Discarded, name) for name in _HARMLESS]
    try:
        records = _record_sizes(path) if zipfile.is_zipfile(path) else None
        with _ONE_AT_A_TIME, torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True, mmap=records is not None), records
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise _unsafe_or_damaged(path, error) from error
    except Exception as error:  # a damaged file can fail anywhere inside the reader
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise CheckpointError(f"{path} is damaged or no torch checkpoint ({reason}). Fetch it again.") from error


def _record_sizes(path: Path) -> set[int]:
    """The sizes of a zip file's records; torch maps them without asking whether they are compressed, or how long."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(
            f"{path} was compressed after torch wrote it. Take the original, or unpack it and zip -0."
        )
    return {record.file_size for record in records}


def _unsafe_or_damaged(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    if "GLOBAL" not in text:
        return CheckpointError(
            f"{path} is damaged, no torch checkpoint, or written with a pickle protocol other than torch's. "
            "Fetch it again, or save it again with torch.save."
        )
    wanted = text.split("GLOBAL ", 1)[1].split(" ", 1)[0]
    return CheckpointError(
        f"{path} asks for {wanted} to be loaded, which may run code; nothing was run. "
        "Take the model from a source that you trust, as safetensors if there is a choice."
    )


def _tensors(path: Path, content: Any) -> dict[str, torch.Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors. {_CURE}")
    # Model-parallel files of FlagAI repeat every name beside the wrapper with the value None.
    tensors = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        keys = [key for key in content if isinstance(key, str)][:5]
        raise CheckpointError(f"{path} holds no tensors by name: its keys are {keys}. {_CURE}")
    unreadable = [name for name, tensor in tensors.items() if not _is_plain(tensor)]
    if unreadable:
        raise CheckpointError(
            f"{path}: {unreadable[0]!r} is a sparse, nested, quantized or empty (meta) tensor; only dense ones can be "
            "read. Save it again as a dense one."
        )
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.is_cpu and not tensor.is_quantized and not tensor.is_nested
