"""Which files make up the checkpoint of a folder, for every layout in circulation."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from flagai.errors import CheckpointError, ModelNotFoundError
from flagai.typed_json import read_json, shown

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")
# Model-parallel parts (THUDM/DeepSpeed, FlagAI): every file holds a slice of every tensor.
_PARTS = (re.compile(r"mp_rank_(\d+)_model_states\.pt"), re.compile(r"pytorch_model_(\d+)\.bin"))
# Shards: every file holds some whole tensors. FlagAI's are written without an index.
_SHARDS = (re.compile(r"model-(\d+)-of-(\d+)\.safetensors"), re.compile(r"pytorch_model-(\d+)(?:-of-(\d+))?\.bin"))
# GLM-130B's size: 100,000 tensors of names of 100 characters are 20 MB.
_INDEX_LIMIT = 64 << 20
_TAGS = ("latest", "latest_checkpointed_iteration.txt")
# What is read of such a file.
_TAG_LIMIT = 4096
KNOWN_FORMATS = (
    "model.safetensors, pytorch_model.bin, either of them in shards with an index, pytorch_model_XX.bin, "
    "or mp_rank_XX_model_states.pt (in the folder that `latest` names)"
)


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one checkpoint.

    Args:
        parts: one list of files per model-parallel part; ordinary checkpoints have one part.
        placement: for a checkpoint with an index, which file should hold which tensor.
        beside: further files that say what the model is, whether they exist or not.
    """

    parts: list[list[Path]]
    placement: dict[str, Path] | None = None
    beside: tuple[Path, ...] = ()


def find_files(path: Path) -> CheckpointFiles:
    """Find the weights at ``path``: a file, or a folder in any of the known layouts.

    Raises:
        ModelNotFoundError: nothing is there, or nothing that looks like weights.
        CheckpointError: an index or a tag names files that are absent.
    """
    if path.is_file():
        return _from_index(path) if path.name.endswith(".index.json") else CheckpointFiles([[path]])
    if not path.is_dir():
        raise ModelNotFoundError(f"There is no file or folder {path}.")
    found = _in_folder(path) or _from_tag(path)
    if found is None:
        names = sorted(entry.name for entry in path.iterdir())[:10] or "an empty folder"
        raise ModelNotFoundError(f"{path} holds no weights. Expected: {KNOWN_FORMATS}. Found: {names}.")
    return replace(found, beside=tuple(path / name for name in (*_INDEXES, *_TAGS, "config.json")))


def _in_folder(folder: Path) -> CheckpointFiles | None:
    for index, single in zip(_INDEXES, _SINGLES, strict=True):
        if (folder / single).is_file():
            return CheckpointFiles([[folder / single]])
        if (folder / index).is_file():
            return _from_index(folder / index)
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    for pattern in _PARTS:
        ranks = {int(match[1]): folder / name for name in names if (match := pattern.fullmatch(name))}
        if ranks:
            return CheckpointFiles([[file] for file in _complete(folder, ranks, range(len(ranks)))])
    for pattern in _SHARDS:
        shards = [match for name in names if (match := pattern.fullmatch(name))]
        if shards:
            return CheckpointFiles([_complete_set(folder, shards)])
    return None


def _from_index(index: Path) -> CheckpointFiles:
    content = read_json(index, CheckpointError, limit=_INDEX_LIMIT)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index} has no weight_map, so it does not say where the tensors are. Download it again."
        )
    for name in weight_map.values():
        if not isinstance(name, str) or not _is_plain(name):
            raise CheckpointError(
                f"{index} names the file {shown(name)}, which is not a plain file name. "
                "Take the model from a source that you trust."
            )
    files = {name: index.parent / name for name in sorted(set(weight_map.values()))}
    absent = [name for name, file in files.items() if not os.path.isfile(file)]  # also if no file can have this name
    if absent:
        raise CheckpointError(f"{index} names {shown(absent)}, absent from {index.parent}. Fetch what is missing.")
    return CheckpointFiles([list(files.values())], {name: files[file] for name, file in weight_map.items()})


def _complete_set(folder: Path, shards: list[re.Match[str]]) -> list[Path]:
    totals = {int(match[2]) for match in shards if match[2]} or {len(shards)}
    if len(totals) > 1:
        raise CheckpointError(
            f"{folder} holds shards of several checkpoints: {shown([match[0] for match in shards])}. "
            "Remove the older ones."
        )
    total = totals.pop()
    numbers = {int(match[1]): folder / match[0] for match in shards}
    first = 1 if total in numbers else 0
    return _complete(folder, numbers, range(first, first + total))


def _complete(folder: Path, found: dict[int, Path], wanted: range) -> list[Path]:
    """The files in the order of their numbers, if none is missing."""
    missing = next((number for number in wanted if number not in found), None)
    if missing is not None:
        raise CheckpointError(
            f"{folder} holds {shown([file.name for file in found.values()])}, but number {missing} of {len(wanted)} is "
            "missing. Fetch what is missing."
        )
    return [found[number] for number in sorted(found)]


def _from_tag(folder: Path) -> CheckpointFiles | None:
    for name in _TAGS:
        if (folder / name).is_file():
            with (folder / name).open(encoding="utf-8-sig", errors="replace") as file:  # of Windows editors, too
                tag = next(iter(file.read(_TAG_LIMIT).split()), "")
            if not _is_plain(tag):
                raise CheckpointError(
                    f"{folder / name} holds {shown(tag)}, which is not a plain folder name. Repair it."
                )
            found = _in_folder(folder / tag) if os.path.isdir(folder / tag) else None
            if found is None:
                raise CheckpointError(
                    f"{folder / name} names the folder {folder / tag}, which does not exist or holds no weights. "
                    f"Expected there: {KNOWN_FORMATS}. Fetch it."
                )
            return found
    return None


def _is_plain(name: str) -> bool:
    """Whether a name leads to no other folder."""
    return Path(name).name == name and name not in ("", ".", "..")
