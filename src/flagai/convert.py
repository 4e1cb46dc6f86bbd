"""Convert a checkpoint folder into safetensors, in either layout."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flagai.auto_model.registry import class_named, find_class
from flagai.checkpoint.atomic import replace_folder, target_folder
from flagai.checkpoint.files import CheckpointFiles
from flagai.checkpoint.reader import Checkpoint, open_checkpoint
from flagai.checkpoint.save import WEIGHT_FILES
from flagai.checkpoint.steady import read_steadily
from flagai.data.tokenizer.detection import describe, find_card
from flagai.data.tokenizer.saved import OPTIONS_FILE
from flagai.errors import FlagAIError, InputError, ModelNotFoundError
from flagai.hub.names import MANIFEST, WEIGHTS
from flagai.model import quantization
from flagai.model.adapter_folder import check_adapters
from flagai.model.base_model import BaseModel
from flagai.model.config import ModelConfig
from flagai.model.device import Dtype
from flagai.resolve import CONFIG_FILE, ResolvedModel, resolve
from flagai.typed_json import read_json

logger = logging.getLogger(__name__)
# What belongs to a model besides configuration and weights, as patterns of paths in its folder.
_NEEDED = (
    "*vocab*.txt",
    "*vocab*.json",
    "merges.txt",
    "*.model",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "generation_config.json",
    "modules.json",
    "*_Pooling/config.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
)
# Far above any vocabulary; all companions are in memory until they are written.
_LARGEST = 256 << 20
_DOCUMENTS = ("README*", "LICENSE*", "NOTICE*")
# What is replaced in a target that holds another model; its other files stay.
_OF_A_MODEL = (
    *WEIGHT_FILES,
    *(pattern for group in WEIGHTS for pattern in group if "/" not in pattern),
    *(pattern.partition("/")[0] for pattern in (*_NEEDED, *_DOCUMENTS)),
    MANIFEST,
)


@dataclass(frozen=True)
class Conversion:
    """What a conversion did."""

    model_class: str  # the class that read and wrote the model
    parameters: int  # how many were written
    layout: str  # the layout that was written
    dropped: list[str]  # tensors of the source that the class does not use, so that they are not in the target
    companions: list[str]  # files that were copied along
    left_out: list[str]  # documents that were not, because they are symbolic links out of the folder


@dataclass(frozen=True)
class _OpenedModel:
    """A model that was opened: all of it is of one version of the folder."""

    model_class: type[BaseModel]
    config: ModelConfig
    checkpoint: Checkpoint
    companions: Mapping[str, bytes]
    left_out: list[str]


def convert(
    source: str | Path,
    target: str | Path,
    *,
    layout: str | None = None,
    dtype: Dtype | None = None,
    quantize: str | None = None,
    max_shard_size: int | str = "5GB",
    model_class: str | None = None,
    adapter: str | Path | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Read a model folder in any known format and write it as safetensors, with the files of its tokenizer.

    The target is built under another name and takes its place in one step: at any time it is the old one or the new
    one, whole. Of another model in it nothing stays, of other files all.

    Args:
        source: a folder with ``config.json`` and weights, or the name of a model, which is fetched if it is absent.
        target: the folder to create or update.
        layout: "huggingface" or "flagai"; default the first, of quantized weights the second.
        dtype: the type to write; default the type of the source.
        quantize: "int8" or "int4" writes the weights of blocks in so many bits.
        max_shard_size: the largest size of a weights file, as in "5GB".
        model_class: the class, if the folder does not tell it.
        adapter: the folder of a LoRA adapter of PEFT, which is merged into the weights.
        overwrite: write into a folder that is not empty.

    Raises:
        FlagAIError: the source is damaged or does not fit its class, or an argument is wrong.

    Returns:
        What was written, and what was left out.

    Example:
        >>> convert("checkpoints/GLM-large-ch", "converted", dtype=torch.float16)
    """
    if adapter is not None:
        check_adapters(adapter)
    found, target = _find(source), Path(target)
    check_target(found.folder, target, overwrite)
    layout = layout or ("flagai" if quantize else "huggingface")
    opened = read_steadily(found.folder, lambda files: _open(found, files, model_class), found.files)
    model, dropped = _load(opened, dtype)
    if adapter is not None:
        model.merge_adapter(model.load_adapter(adapter), unload=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if quantize:
        quantization.quantize(model, quantize)
    with replace_folder(target, drop=_OF_A_MODEL) as temporary:
        model.write_into(temporary, max_shard_size=max_shard_size, layout=layout)
        for name, content in opened.companions.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(content)
    return Conversion(type(model).__name__, parameters, layout, dropped, list(opened.companions), opened.left_out)


def _find(source: str | Path) -> ResolvedModel:
    try:
        path = Path(source).expanduser()
        absent = not path.exists()
    except (OSError, RuntimeError):  # no such name or home: what looks for models says so
        absent = True
    if absent:
        return resolve(source)
    if not (path / CONFIG_FILE).is_file():
        raise ModelNotFoundError(f"{path} has no {CONFIG_FILE}; flagai convert reads model folders.")
    return ResolvedModel(path)


def check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Refuse a folder to write that is the source, no folder, or not empty.

    Args:
        source: the folder that is read.
        target: the folder to write.
        overwrite: accept one that is not empty.

    Raises:
        InputError: the message names the folder and the cure.
    """
    try:
        place = target_folder(target)
    except OSError as error:
        if isinstance(error, FlagAIError):
            raise
        raise InputError(f"{target} cannot be a folder: {error}. Choose another name.") from error
    if place == source.resolve():
        raise InputError(f"{target} is the source itself. Name another folder; the original is never overwritten.")
    if place.is_dir() and any(place.iterdir()) and not overwrite:
        raise InputError(f"{target} is not empty. Name another folder, or say --overwrite.")


def _open(found: ResolvedModel, files: CheckpointFiles, class_name: str | None) -> _OpenedModel:
    checkpoint = open_checkpoint(found.folder, files=files)
    content = read_json(found.folder / CONFIG_FILE) if found.config is None else found.config
    model_class, overrides = find_class(content, checkpoint)
    if class_name is not None:
        model_class = class_named(class_name)
    if found.config is None:
        config = model_class.config_class.from_json(found.folder / CONFIG_FILE, **overrides)
    else:
        config = model_class.config_class.from_dict(found.config, source="the catalog", **overrides)
    companions, left_out = read_companions(found.folder)
    companions |= _decided(found.folder)
    return _OpenedModel(model_class, config, checkpoint, companions, left_out)


def _load(source: _OpenedModel, dtype: Dtype | None) -> tuple[BaseModel, list[str]]:
    model = source.model_class.on_meta(source.config)
    report = model.load_checkpoint(source.checkpoint, dtype=dtype)
    if report.newly_initialized:
        raise InputError(
            f"{source.checkpoint.path} holds no weights for {', '.join(report.newly_initialized)} of "
            f"{source.model_class.__name__}; random ones are not written. Name the class that made the checkpoint with "
            "--model-class."
        )
    return model, report.unused


def read_companions(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """The files that belong to a model, by their path in the folder, and the documents that lie outside of it.

    Args:
        folder: the model's folder.

    Raises:
        InputError: a file that the model needs is a symbolic link out of the folder.
    """
    content, left_out = {}, []
    for path in sorted({path for pattern in (*_NEEDED, *_DOCUMENTS) for path in folder.glob(pattern)}):
        name = path.relative_to(folder).as_posix()
        if not path.is_file():
            continue
        if _is_inside(path, folder):
            content[name] = _read(path)
        elif any(path.match(pattern) for pattern in _DOCUMENTS):
            logger.warning("%s is a symbolic link out of the folder, so it is not copied", path)
            left_out.append(name)
        else:
            raise InputError(
                f"{path} is a symbolic link to {path.resolve()}, outside of the folder, so it is not copied. Put the "
                "file itself there if it belongs to the model, or remove the link."
            )
    return content, left_out


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise InputError(f"{path} is larger than {_LARGEST:,} bytes, too large for such a file. Put it elsewhere.")
    return content


def _decided(folder: Path) -> dict[str, bytes]:
    """The tokenizer's settings, if the source's name decides one of them; the target may have another name."""
    try:
        name = folder.resolve().name
        description = describe(folder, name, find_card(name))
    except FlagAIError:  # no tokenizer, or one that cannot be read here and is only copied
        return {}
    return {OPTIONS_FILE: description.portable_files()[OPTIONS_FILE]} if description.decided else {}


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a file lies in its folder, or in the cache of huggingface_hub, whose folders consist of links."""
    folder, path = folder.resolve(), path.resolve()
    blobs = [folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else []
    return any(path.is_relative_to(place) for place in (folder, *blobs))
