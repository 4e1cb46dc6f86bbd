"""Convert a checkpoint folder into safetensors, in either layout."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import InputError, ModelNotFoundError
from flagai.model import quantized as quantization
from flagai.model.base_model import BaseModel
from flagai.model.obtain import CONFIG_FILE
from flagai.model.placement import Dtype
from flagai.model.registry import class_named, find_class
from flagai.typed_json import read_json

# What belongs to a model besides configuration and weights.
_COMPANIONS = (
    "*vocab*.txt",
    "*vocab*.json",
    "merges.txt",
    "*.model",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "README*",
    "LICENSE*",
)


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Args:
        model_class: the class that read and wrote the model.
        parameters: number of parameters.
        layout: the layout that was written.
        dropped: tensors of the source that the class does not use, so that they are not in the target.
        companions: files that were copied along.
    """

    model_class: str
    parameters: int
    layout: str
    dropped: list[str]
    companions: list[str]


def convert(
    source: str | Path,
    target: str | Path,
    *,
    layout: str | None = None,
    dtype: Dtype | None = None,
    quantize: str | None = None,
    max_shard_size: int | str = "5GB",
    model_class: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Read a model folder in any known format and write it as safetensors.

    Args:
        source: a folder with ``config.json`` and weights.
        target: the folder to create or update, atomically.
        layout: "huggingface" or "flagai"; default the first, of quantised weights the second.
        dtype: the type to write; default the type of the source.
        quantize: "int8" or "int4" writes the weights of blocks in so many bits.
        max_shard_size: the largest size of a weights file, as in "5GB".
        model_class: the class, if the folder does not tell it.
        overwrite: write into a folder that is not empty.

    Raises:
        FlagAIError: the source is damaged or does not fit its class, or an argument is wrong.
    """
    source, target = Path(source), Path(target)
    if not (source / CONFIG_FILE).is_file():
        raise ModelNotFoundError(f"{source} has no {CONFIG_FILE}; flagai convert reads model folders.")
    _check_target(source, target, overwrite)
    layout = layout or ("flagai" if quantize else "huggingface")
    model, dropped = _load(source, model_class, dtype)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if quantize:
        quantization.quantize(model, quantize)
    model.save_pretrained(target, max_shard_size=max_shard_size, layout=layout)
    return Conversion(
        model_class=type(model).__name__,
        parameters=parameters,
        layout=layout,
        dropped=dropped,
        companions=_copy_companions(source, target),
    )


def _check_target(source: Path, target: Path, overwrite: bool) -> None:
    if target.resolve() == source.resolve():
        raise InputError(f"{target} is the source itself. Name another folder; the original is never overwritten.")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise InputError(f"{target} is not empty. Name another folder, or say --overwrite.")


def _load(source: Path, class_name: str | None, dtype: Dtype | None) -> tuple[BaseModel, list[str]]:
    checkpoint = open_checkpoint(source)
    found, overrides = find_class(read_json(source / CONFIG_FILE), checkpoint)
    if class_name is not None:
        found = class_named(class_name)
    model = found.on_meta(found.config_class.from_json(source / CONFIG_FILE, **overrides))
    report = model.load_checkpoint(checkpoint, dtype=dtype)
    if report.fresh:
        raise InputError(
            f"{source} holds no weights for {', '.join(report.fresh)} of {found.__name__}; random ones are not "
            "written. Name the class that made the checkpoint with --model-class."
        )
    return model, report.unused


def _copy_companions(source: Path, target: Path) -> list[str]:
    found = sorted({path for pattern in _COMPANIONS for path in source.glob(pattern) if path.is_file()})
    for path in found:
        if not (target / path.name).exists():
            shutil.copy2(path, target / path.name)
    return [path.name for path in found]
