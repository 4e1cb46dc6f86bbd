"""Writing folders that PEFT reads: ``adapter_config.json`` and the matrices, under the names of a layout."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from flagai.checkpoint.atomic import replace_folder
from flagai.checks import check_path
from flagai.model.adapter_folder import PREFIX, WEIGHTS
from flagai.model.layer.adapted import LowRank, Replaced
from flagai.resolve import ADAPTER_FILE


def write_adapter(
    model: Any, changes: Mapping[str, LowRank | Replaced], folder: str | Path, *, layout: str, base: str
) -> None:
    """Write an adapter as PEFT does, all files at once.

    Args:
        model: the model.
        changes: what changes in which layer.
        folder: the folder to create or update.
        layout: whose names the layers get, "huggingface" or "flagai".
        base: the name of the base model.
    """
    from safetensors.torch import save_file

    plan = model.names.plan_file(
        [name for name, _ in model.named_parameters(remove_duplicate=False)], layout, model.prefixes.get(layout, "")
    )
    tensors: dict[str, torch.Tensor] = {}
    scales: dict[str, tuple[int, float]] = {}
    heads: set[str] = set()
    transposed = False
    for theirs, sources in plan.items():
        layer, _, leaf = theirs.rpartition(".")
        parts = [(part, ours.rpartition(".")[0]) for part, ours in sources]
        found = [changes.get(ours) for _, ours in parts]
        if isinstance(found[0], Replaced):
            tensors[PREFIX + theirs] = getattr(found[0], leaf).detach().cpu().contiguous()
            heads.add(layer)
        elif leaf == "weight" and any(found):
            outputs = [model.get_submodule(ours).out_features for _, ours in parts]
            a, b, alpha = _joined(parts[0][0], found, outputs)
            tensors[f"{PREFIX}{layer}.lora_A.weight"], tensors[f"{PREFIX}{layer}.lora_B.weight"] = a, b
            scales[layer] = len(a), alpha
            transposed = parts[0][0].row.transposed
    (rank, alpha), _ = Counter(scales.values()).most_common(1)[0]
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base or None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {layer: own for layer, (own, _) in scales.items() if own != rank},
        "alpha_pattern": {layer: own for layer, (_, own) in scales.items() if own != alpha},
        "target_modules": _shortest(
            scales.keys(), {name.rpartition(".")[0] for name in plan if name.endswith(".weight")}
        ),
        "modules_to_save": sorted(heads) or None,
        "fan_in_fan_out": transposed,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    with replace_folder(check_path("folder", folder), drop=WEIGHTS) as temporary:
        save_file(tensors, temporary / WEIGHTS[0], metadata={"format": "pt"})
        (temporary / ADAPTER_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _joined(part: Any, changes: list[Any], outputs: list[int]) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The matrices of a layer that the file holds in one piece, and alpha; rows of parts without a change are zeros."""
    given = [change for change in changes if change is not None]
    first, shared = given[0], all(torch.equal(each.a, given[0].a) for each in given)
    rows, begin = [], 0
    rank = len(first.a) if shared else sum(len(each.a) for each in given)
    for change, count in zip(changes, outputs, strict=True):
        block = torch.zeros(count, rank, dtype=first.b.dtype)
        if change is not None:
            at = 0 if shared else begin
            # One scale for all: that of the first.
            block[:, at : at + len(change.a)] = change.b.detach().cpu() * (change.scale / first.scale)
            begin += len(change.a)
        rows.append(block)
    a = first.a if shared else torch.cat([each.a for each in given])
    return a.detach().cpu().contiguous(), part.joined(rows).contiguous(), first.scale * rank


def _shortest(layers: Collection[str], known: Collection[str]) -> list[str]:
    """Names that PEFT finds exactly these layers by: their last parts, if no other layer has such a one."""
    last = {layer.rpartition(".")[2] for layer in layers}
    others = {layer.rpartition(".")[2] for layer in known if layer not in layers}
    return sorted(layers if last & others else last)
