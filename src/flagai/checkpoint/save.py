"""Write a model's tensors as safetensors, in one file or in shards with an index."""

import errno
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from flagai.checkpoint.atomic import is_stream, replace_file
from flagai.checkpoint.names import NameMap, TensorPart
from flagai.checkpoint.quantization import quantize_tensors
from flagai.errors import CheckpointError, InputError
from flagai.parallel import dtensor

# What this module writes, and may therefore replace.
WEIGHT_FILES = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
# Transformers asks for this entry.
_METADATA = {"format": "pt"}
# theirs -> the parts and the tensors that fill them
SavePlan = dict[str, list[tuple[TensorPart, torch.Tensor]]]
# Makes one tensor of the file; :func:`build`, or one that gathers it from several ranks first.
Build = Callable[[Sequence[tuple[TensorPart, torch.Tensor]]], torch.Tensor]


def plan_tensors(parameters: Mapping[str, torch.Tensor], names: NameMap, layout: str, prefix: str) -> SavePlan:
    """Say which tensors a file of this layout holds, without building them; see :meth:`NameMap.plan_file`."""
    written = names.plan_file(parameters, layout, prefix)
    return {theirs: [(part, parameters[ours]) for part, ours in sources] for theirs, sources in written.items()}


def build(sources: Sequence[tuple[TensorPart, torch.Tensor]]) -> torch.Tensor:
    """Join and transpose our tensors into one tensor of the file; always contiguous, never shared."""
    tensors = [tensor.detach() for _, tensor in sources]
    whole = sources[0][0].joined(tensors)
    if sources[0][0].row.transposed and whole.dim() == 2:
        whole = whole.T
    return whole.contiguous()


def _parse_size(size: int | str) -> int:
    """Understand "5GB", "500MB" or a number of bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if not match or match[2].upper() not in _UNITS or not float(match[1]):
        raise InputError(f"max_shard_size is {size!r}; expected a number of bytes or a size such as '5GB' or '500MB'.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def write_shards(folder: Path, plan: SavePlan, max_shard_size: int | str, build: Build = build) -> None:
    """Write ``model.safetensors``, or shards and ``model.safetensors.index.json``, into a folder.

    At most one shard is in memory at a time, and only its fused, transposed or cast tensors are copies.

    Args:
        folder: an existing folder; see :func:`flagai.checkpoint.atomic.replace_folder` for the safe way in.
        plan: from :func:`plan_tensors`.
        max_shard_size: the largest size of a file, as bytes or as in "5GB"; a single larger tensor gets its own.
        build: makes the tensors, which are asked for in the plan's order.

    Raises:
        InputError: the size cannot be understood.
    """
    limit, size = _parse_size(max_shard_size), 0
    shards: list[SavePlan] = [{}]
    for theirs, sources in plan.items():
        if shards[-1] and size + _size(sources) > limit:
            shards.append({})
            size = 0
        shards[-1][theirs] = sources
        size += _size(sources)
    if len(shards) == 1:
        write_file(folder / "model.safetensors", plan, build=build)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, shard, build=build)
        weight_map.update(dict.fromkeys(shard, name))
    index = {"metadata": {"total_size": sum(map(_size, plan.values()))}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=2) + "\n", encoding="utf-8", newline="\n"
    )


def write_file(path: Path, plan: SavePlan, *, pickled: bool = False, build: Build = build) -> None:
    """Write one file, in torch's format instead of safetensors if ``pickled``; the rest as :func:`write_shards`."""
    from safetensors import SafetensorError  # late: reading needs no safetensors
    from safetensors.torch import save, save_file

    tensors = {theirs: build(sources) for theirs, sources in plan.items()}
    try:
        if is_stream(path):  # save_file would put a regular file in its place
            with path.open("ab") as stream:
                if pickled:
                    torch.save(tensors, stream)
                else:
                    stream.write(save(_separate(tensors), metadata=_METADATA))
        elif pickled:
            torch.save(tensors, path)
        else:
            save_file(_separate(tensors), path, metadata=_METADATA)
    except (RuntimeError, SafetensorError) as error:  # both writers hide the system's error in one of their own
        reason = str(error).strip().split("\n", 1)[0]
        raise OSError(errno.ENOSPC, f"{reason:.200} (is the disk full?)", str(path)) from error


def write_quantized(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors of any floating-point type as a safetensors file in 8 bits, atomically."""
    from safetensors.torch import save_file

    with replace_file(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in quantize_tensors(tensors).items()}, temporary)


def save_distributed(plan: SavePlan, write: Callable[[Build], None]) -> None:
    """Save a sharded model: the first rank writes while all gather; every rank calls it, and all fail together.

    The first rank never holds more than one file's tensors, the others one tensor. ``write`` writes the plan in its
    order, and makes each tensor by the function that it gets.

    Raises:
        CheckpointError: on the other ranks, if the first one failed; there its own error is raised.
    """
    from torch import distributed

    built = 0

    def gather_and_build(sources: Sequence[tuple[TensorPart, torch.Tensor]]) -> torch.Tensor:
        nonlocal built
        built += 1
        return build([(part, dtensor.full_tensor(tensor).detach().cpu()) for part, tensor in sources])

    failure: Exception | None = None
    if distributed.get_rank() == 0:
        try:
            write(gather_and_build)
        except Exception as error:  # noqa: BLE001 - raised below, when the other ranks are not left waiting
            failure = error
    for sources in list(plan.values())[built:]:
        for _, tensor in sources:
            dtensor.full_tensor(tensor)
    outcome: list[str | None] = [None if failure is None else f"{type(failure).__name__}: {failure}"]
    distributed.broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[0] is not None:
        raise CheckpointError(f"The first rank could not save. Look at its message: {outcome[0]}")


def _separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors that share their bytes with another one: the format holds each tensor on its own."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in seen else tensor
        seen.add(tensor.untyped_storage().data_ptr())
    return result


def _size(sources: list[tuple[TensorPart, torch.Tensor]]) -> int:
    return sum(tensor.nbytes for _, tensor in sources)
