"""Read ``torch.save`` files without executing anything that they contain."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from flagai.errors import CheckpointError


class Discarded:
    """Stands in for harmless objects that lie beside the weights (random states, argument lists)."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Self:
        return super().__new__(cls)

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
# Training dumps keep the weights under one of these keys.
_WRAPPERS = ("module", "state_dict", "model_state_dict")


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
    allowed = [(Discarded, name) for name in _HARMLESS]
    try:
        with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _unsafe_or_damaged(path, error) from error
    except Exception as error:  # noqa: BLE001 - a damaged file can fail anywhere inside the reader
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise CheckpointError(f"{path} is damaged or no torch checkpoint ({reason}). Fetch it again.") from error
    return _tensors(path, content)


def _unsafe_or_damaged(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    if "GLOBAL" not in text:
        return CheckpointError(f"{path} is damaged or no torch checkpoint. Fetch it again.")
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
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors.")
    # Model-parallel files of FlagAI repeat every name beside the wrapper with the value None.
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors: its keys are {list(map(str, content))[:5]}.")
    unreadable = [name for name, tensor in tensors.items() if tensor.layout is not torch.strided or tensor.is_quantized]
    if unreadable:
        raise CheckpointError(f"{path}: {unreadable[0]!r} is a sparse or quantized tensor; only dense ones can be read.")
    return tensors
