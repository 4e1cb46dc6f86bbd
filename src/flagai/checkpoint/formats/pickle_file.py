"""Read ``torch.save`` files without executing anything that they contain."""

import math
import re
from collections.abc import Mapping
from fnmatch import translate
from pathlib import Path
from typing import Any

import torch

from flagai.checkpoint.formats.pickle_values import StandIn, TensorReference, UnsafePickleError
from flagai.checkpoint.formats.torch_archive import Archive, read_archive
from flagai.checkpoint.mapped_files import map_file, tensor_at
from flagai.errors import CheckpointError
from flagai.typed_json import shown

# Without quantized ones: torch crashes where memory that it did not allocate becomes a tensor of them.
_TYPES = {
    str(value): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype) and not str(value).startswith("torch.q")
}
# The classes of torch's storages: all elements of one are of one type.
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_PLACES = ("torch.", "torch.cuda.", "torch.storage.")
_BUILTINS = ("set", "frozenset", "bytearray", "complex", "object")
# Classes and functions of training dumps. None of them is imported: each becomes a stand-in, and is dropped.
_HARMLESS = (
    "collections.OrderedDict",
    "collections.Counter",
    "torch._utils._rebuild_*",
    "torch._tensor._rebuild_from_type_v2",
    "torch.nn.parameter.*",
    "torch.serialization._get_layout",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.Q*Storage",
    "torch.q*int*",
    "torch.per_*",
    "_codecs.encode",
    *(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in _BUILTINS),
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "argparse.Namespace",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.dtypes.*DType",
    # Of the frameworks that trained GLM: THUDM's and FlagAI's own code, DeepSpeed, Megatron, Apex.
    "*.loss_scaler.*LossScaler",
    "apex.*",
    "deepspeed.*",
    "fp16.*",
    "flagai.*",
    "megatron.*",
    "mpu.*",
)
_HARMLESS_PATTERN = re.compile("|".join(map(translate, _HARMLESS)))
_CURE = "Name the file that holds the model's state dict."
# Training dumps keep the weights under one of these keys.
_WRAPPERS = ("module", "state_dict", "model_state_dict")
# Tied tensors and fused ones share their bytes, three times in T5; more tensors would be copied out of one storage.
_MOST_SHARING = 4
_ALLOWANCE = 1 << 20


def open_pickle(path: Path, *, mapped: bool = True) -> dict[str, torch.Tensor]:
    """Return the tensors of a ``.bin``/``.pt`` file by name, as views of the file.

    Only tensors and plain containers are rebuilt; any other class in the file is either known to be harmless, and
    dropped, or an error.

    Args:
        path: the file, in torch's zip format or its older one.
        mapped: map the file; see :func:`flagai.checkpoint.mapped_files.map_file`.

    Raises:
        CheckpointError: the file is damaged, holds no tensors, or names what may run code.
    """
    if not path.stat().st_size:
        raise CheckpointError(f"{path} is empty. Fetch it again.")
    memory = map_file(path, mapped=mapped)
    try:
        archive = read_archive(path, memory, _is_harmless, lambda kind: _storage_type(kind).itemsize)
        references = _references(path, archive.content)
        _check_types(path, references)
        _check_sharing(path, references, len(memory))
        storages = _Storages(memory, archive)
        return {name: storages.tensor(name, reference) for name, reference in references.items()}
    except CheckpointError:
        raise
    except UnsafePickleError as error:
        raise CheckpointError(
            f"{path} asks for {error!s:.200} to be loaded, which may run code; nothing was run. "
            "Take the model from a source that you trust, as safetensors if there is a choice."
        ) from error
    except Exception as error:  # a damaged file can fail anywhere inside the reader
        reason = f"{error!s:.200}" or type(error).__name__
        raise CheckpointError(f"{path} is damaged or no torch checkpoint ({reason}). Fetch it again.") from error


def _is_harmless(name: str) -> bool:
    return name in _TYPES or _is_storage(name) or _HARMLESS_PATTERN.fullmatch(name) is not None


def _is_storage(name: str) -> bool:
    place, _, kind = name.rpartition(".")
    return f"{place}." in _PLACES and kind in _STORAGES


def _storage_type(name: str) -> torch.dtype:
    return _STORAGES[name.rpartition(".")[2]]


def _references(path: Path, content: Any) -> dict[str, TensorReference]:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        kind = content.kind if isinstance(content, StandIn) else type(content).__name__
        raise CheckpointError(f"{path} holds a {kind:.200}, not a dictionary of tensors. {_CURE}")
    unreadable = [name for name, value in content.items() if isinstance(value, StandIn) and "._rebuild" in value.kind]
    if unreadable:
        raise CheckpointError(
            f"{path}: {unreadable[0]!r:.200} is a sparse, nested, quantized or empty (meta) tensor; only dense ones "
            "can be read. Save it again as a dense one."
        )
    # Model-parallel files of FlagAI repeat every name beside the wrapper with the value None.
    found = {name: value for name, value in content.items() if isinstance(value, TensorReference)}
    if not found:
        raise CheckpointError(f"{path} holds no tensors by name: its keys are {shown(list(content)[:5])}. {_CURE}")
    return found


def _check_types(path: Path, references: Mapping[str, TensorReference]) -> None:
    for name, reference in references.items():
        if reference.dtype is not None and reference.dtype not in _TYPES:
            raise CheckpointError(
                f"{path}: {name!r:.200} is of the type {reference.dtype:.100}, which is not read. "
                "Save it again as float32."
            )


def _check_sharing(path: Path, references: Mapping[str, TensorReference], size: int) -> None:
    """Refuse tensors that overlap, or a storage under a thousand names; repetitions by a stride of 0 are no memory."""
    total = sum(_stored(reference) * _type_of(reference).itemsize for reference in references.values())
    if total > _MOST_SHARING * size + _ALLOWANCE:
        raise CheckpointError(
            f"{path} has {size:,} bytes, but its tensors, which overlap, are {total:,} bytes. Save it again with "
            "contiguous tensors, or take the model from a source that you trust."
        )


def _stored(reference: TensorReference) -> int:
    """The number of values without the repetitions by a stride of 0."""
    return math.prod(extent for extent, step in zip(reference.shape, reference.stride, strict=True) if step)


def _type_of(reference: TensorReference) -> torch.dtype:
    return _storage_type(reference.storage.kind) if reference.dtype is None else _TYPES[reference.dtype]


class _Storages:
    """Makes tensors of references; those of one storage share its memory."""

    def __init__(self, memory: Any, archive: Archive) -> None:
        self._memory = memory
        self._spans = archive.spans
        self._made: dict[tuple[str, bool], torch.Tensor] = {}

    def tensor(self, name: str, reference: TensorReference) -> torch.Tensor:
        dtype, kind = _type_of(reference), _storage_type(reference.storage.kind)
        begin, end = self._spans[reference.storage.key]
        if reference.storage.count * kind.itemsize != end - begin:
            raise ValueError(f"{name!r:.200} is not one whole record of the file")
        count = (end - begin) // dtype.itemsize
        steps = zip(reference.shape, reference.stride, strict=True)
        last = reference.offset + sum((extent - 1) * step for extent, step in steps)
        if not math.prod(reference.shape):
            return torch.empty(reference.shape, dtype=dtype)
        if last >= count:
            raise ValueError(f"{name!r:.200} reaches beyond its record")
        aligned = begin % dtype.itemsize == 0  # kernels expect aligned elements
        key = (reference.storage.key, aligned)
        if key not in self._made:
            raw = tensor_at(self._memory, begin, torch.uint8, (end - begin,))
            self._made[key] = raw if aligned else raw.clone()
        values = self._made[key][: count * dtype.itemsize].view(dtype)
        return values.as_strided(reference.shape, reference.stride, reference.offset)
