"""Adapters of PEFT that were trained on a model of its repository, added to the weights of ours."""

from pathlib import Path
from typing import Any

import torch

from flagai.checkpoint.names import BACKBONE
from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import CheckpointError, InputError, ModelNotFoundError
from flagai.model.base_model import BaseModel
from flagai.model.quantization import how_quantized
from flagai.typed_json import Fields, read_json

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIXES = ("base_model.model.", BACKBONE)
# What changes the result and is not computed here, with the values that do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "alpha_pattern": (None, {}),
    "rank_pattern": (None, {}),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
}


@torch.no_grad()
def merge_lora(model: BaseModel, folder: str | Path) -> None:
    """Add the adapters of a folder to a model's weights; layers may have the names of the original or of transformers.

    Args:
        model: the model, not quantized and in one process.
        folder: has ``adapter_config.json`` and ``adapter_model.safetensors`` or ``.bin``.

    Raises:
        InputError: the model is quantized or spread over processes.
        CheckpointError: the adapters are of another kind, or do not fit; the model is as it was.

    Source:
        Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; the files of PEFT.
    """
    if how_quantized(model) is not None or model.sharding is not None:
        raise InputError("Adapters are added to whole weights: load the model without quantize=, mesh= and fsdp=.")
    path = Path(folder)
    scale = _scale(path)
    deltas = {name: (b.float() @ a.float()) * scale(len(a)) for name, (a, b) in _factors(path).items()}
    added, used = _added(model, deltas)
    if unknown := sorted(deltas.keys() - used):
        raise CheckpointError(f"{path} has adapters of {unknown[0]!r}, which a {type(model).__name__} does not have.")
    for parameter, part in added:
        parameter.copy_((parameter.float() + part.to(parameter.device)).to(parameter.dtype))


def _scale(path: Path) -> Any:
    """The factor on a product, by its rank."""
    if not (path / CONFIG).is_file():
        raise ModelNotFoundError(f"{path} has no {CONFIG}, so it is no folder of a PEFT adapter.")
    content = read_json(path / CONFIG, CheckpointError)
    stated = Fields(content, str(path / CONFIG), CheckpointError)
    kind = stated.text("peft_type", "LORA").upper()
    if kind != "LORA":
        stated.fail("peft_type", f"{kind} is not LORA. A prefix of P-Tuning v2 is loaded by load_prefix_encoder().")
    for name, neutral in _NEUTRAL.items():
        if content.get(name) not in neutral:
            stated.fail(name, "this is not supported. Merge the adapter by peft, and load the model that it writes.")
    alpha, stabilized = stated.number("lora_alpha", 8.0), stated.flag("use_rslora", False)
    return lambda rank: alpha / (rank**0.5 if stabilized else rank)


def _factors(path: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The two matrices of each layer, by the name of its weight in the original."""
    file = next((path / name for name in _WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise ModelNotFoundError(f"{path} has none of {', '.join(_WEIGHTS)}. Fetch it again.")
    checkpoint = open_checkpoint(file)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name in checkpoint:
        layer, _, rest = name.partition(".lora_")
        if rest.split(".")[0] not in ("A", "B"):
            raise CheckpointError(f"{file} has {name!r}, which is no adapter of a linear layer.")
        found.setdefault(layer, {})[rest[0]] = checkpoint.tensors(name)[0]
    for layer, pair in found.items():
        if pair.keys() != {"A", "B"} or len(pair["A"]) != pair["B"].shape[1]:
            raise CheckpointError(f"{file}: the two matrices of {layer!r} do not go together. Fetch it again.")
    return {f"{layer}.weight": (pair["A"], pair["B"]) for layer, pair in found.items()}


def _added(
    model: BaseModel, deltas: dict[str, torch.Tensor]
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], set[str]]:
    """What is added to each parameter, and the names of the tensors that are used."""
    names = {model.names.canonical(_bare(name)): name for name in deltas}
    added: list[tuple[torch.Tensor, torch.Tensor]] = []
    used: set[str] = set()
    for ours, parameter in model.named_parameters():
        part = next((part for part in model.names.parts(ours) if part.theirs in names), None)
        if part is None:
            continue
        name = names[part.theirs]
        views = part.views(deltas[name])
        delta = None if views is None else torch.cat(views)
        if delta is None or delta.shape != parameter.shape:
            raise CheckpointError(
                f"The adapter of {name!r} gives {list(deltas[name].shape)}, which does not fit {ours} "
                f"{list(parameter.shape)}: it was trained on a model of another size."
            )
        added.append((parameter, delta))
        used.add(name)
    return added, used


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
