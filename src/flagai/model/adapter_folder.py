"""Reading folders of PEFT: ``adapter_config.json`` and the matrices, for a model's own layers."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flagai.checkpoint.names import BACKBONE, NameMap
from flagai.checkpoint.reader import open_checkpoint
from flagai.checks import check_path
from flagai.errors import CheckpointError, InputError, ModelNotFoundError
from flagai.model.layer.adapted import LowRank, Replaced
from flagai.resolve import ADAPTER_FILE
from flagai.typed_json import Fields, read_json, shown

# The folder of an adapter, or several by their names.
AdapterFolders = str | Path | Mapping[str, str | Path]
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
# The layers of ours that have an output for each class.
_HEADS = ("classifier", "tagger")
_EMPTY: tuple[Any, ...] = (None, False, [], {}, "none")
# What the matrices say by themselves, what only training reads, and what describes the file.
_WITHOUT_EFFECT = {
    *("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"),
    *("fan_in_fan_out", "inference_mode", "task_type", "base_model_name_or_path", "revision", "auto_mapping"),
    *("peft_version", "megatron_config", "megatron_core", "runtime_config", "eva_config", "loftq_config"),
    *("corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying", "enable_lora", "merge_weights"),
}
# Other ways to begin change the base model's weights.
_INITIAL = (None, True, False, "gaussian", "eva", "orthogonal", "mini_init", "random")
_CURE = "is not supported. Merge the adapter by peft, and load the model that it writes."


@dataclasses.dataclass(frozen=True)
class _Scales:
    """The factor of each layer, by its name in the file."""

    fields: Fields
    rank: int
    alpha: float
    ranks: Mapping[str, Any]
    alphas: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "_Scales":
        place = folder / ADAPTER_FILE
        content = read_json(place, CheckpointError)
        fields = Fields(content, str(place), CheckpointError)
        kind = fields.text("peft_type", "LORA").upper()
        if kind != "LORA":
            fields.fail("peft_type", f"{kind} is not LORA. A prefix of P-Tuning v2 is loaded by load_prefix_encoder().")
        for name in content.keys() - _WITHOUT_EFFECT - {"init_lora_weights"}:
            if content[name] not in _EMPTY:
                fields.fail(name, f"{shown(content[name])} {_CURE}")
        if content.get("init_lora_weights") not in _INITIAL:
            fields.fail(
                "init_lora_weights", f"{shown(content['init_lora_weights'])} changes the base model. It {_CURE}"
            )
        return cls(
            fields,
            fields.integer("r", 8),
            fields.number("lora_alpha", 8.0),
            fields.mapping("rank_pattern"),
            fields.mapping("alpha_pattern"),
        )

    def of(self, layer: str, rank: int) -> float:
        """The factor of a layer whose matrices have this rank."""
        wanted = self._pattern("rank_pattern", self.ranks, layer, self.rank)
        if rank != wanted:
            self.fields.fail("r", f"{wanted:g} is not the rank {rank} of {layer!r:.200}. Fetch the folder again.")
        alpha = self._pattern("alpha_pattern", self.alphas, layer, self.alpha)
        return alpha / (rank**0.5 if self.fields.flag("use_rslora", False) else rank)

    def _pattern(self, name: str, pattern: Mapping[str, Any], layer: str, default: float) -> float:
        """The value of the first key that is the end of a layer's name; PEFT takes keys for regular expressions."""
        for key in pattern:
            if set(key) & set("*+?[](){}|$\\"):
                self.fields.fail(name, f"the regular expression {shown(key)} {_CURE}")
            if f".{layer}".endswith(f".{key.removeprefix('^')}"):
                return Fields(pattern, f"{self.fields.place}, {name}", CheckpointError).number(key, default)
        return default


def check_adapters(folders: AdapterFolders) -> dict[str | None, Path]:
    """The folders of adapters, by the names that they are given, before a model is loaded for them.

    Raises:
        InputError: it is not a folder, and no folders by name.
        ModelNotFoundError: a folder is absent, or holds no adapter.
    """
    given: Mapping[Any, Any] = folders if isinstance(folders, Mapping) else {None: folders}
    found = {name: check_path("adapter", folder) for name, folder in given.items()}
    if not found:
        raise InputError("adapter is empty; expected the folder of an adapter, or folders by name.")
    for folder in found.values():
        if not (folder / ADAPTER_FILE).is_file():
            raise ModelNotFoundError(f"{folder} has no {ADAPTER_FILE}, so it is not a folder of a PEFT adapter.")
    return found


def adapter_classes(names: NameMap, folders: AdapterFolders) -> int | None:
    """The number of classes of the head that adapters bring; None if they bring none.

    Args:
        names: those of the family's model.
        folders: the folders of the adapters.
    """
    heads = [part.theirs for head in _HEADS for part in names.parts(f"{head}.weight")]
    for folder in check_adapters(folders).values():
        tensors = _tensors(folder, names)
        found = next((tensors[head].value for head in heads if head in tensors), None)
        if found is not None:
            return len(found)
    return None


def read_adapter(model: Any, folder: str | Path) -> dict[str, LowRank | Replaced]:
    """The adapter of a folder, for the layers of a model.

    Layers may have the names of any layout that the model's weights may have: transformers', the original's or ours.

    Args:
        model: the model; it stays as it is.
        folder: has ``adapter_config.json`` and ``adapter_model.safetensors`` or ``.bin``.

    Returns:
        What changes in which layer.

    Raises:
        ModelNotFoundError: a file is absent.
        CheckpointError: the adapter is of another kind, or does not fit.
    """
    (path,) = check_adapters(folder).values()
    scales, tensors = _Scales.read(path), _tensors(path, model.names)
    changes: dict[str, LowRank | Replaced] = {}
    used: set[str] = set()
    shared = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for name, layer in _linear_layers(model):
        found = _low_rank(name, layer, model.names, tensors, scales, used) or _replaced(
            name, layer, model.names, tensors, used
        )
        if found is not None and (shared[id(layer.weight)] > 1 or _scores_tokens(model, name)):
            raise CheckpointError(f"{path} changes {name}, the output layer over the vocabulary, which {_CURE}")
        if found is not None:
            changes[name] = found
    if unknown := sorted(tensors.keys() - used):
        raise CheckpointError(
            f"{path} has {tensors[unknown[0]].name!r:.200}, which no linear layer of a {type(model).__name__} has: it "
            "was trained on another model or task."
        )
    return changes


@dataclasses.dataclass(frozen=True)
class _Tensor:
    name: str  # in the file
    layer: str  # with which the patterns of the configuration are compared
    value: torch.Tensor


def _tensors(folder: Path, names: NameMap) -> dict[str, _Tensor]:
    """The tensors of a folder, by their names without prefixes."""
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise ModelNotFoundError(f"{folder} has none of {', '.join(WEIGHTS)}. Download it again.")
    checkpoint = open_checkpoint(file)
    found: dict[str, _Tensor] = {}
    for name in checkpoint:
        bare = name.removeprefix(PREFIX)
        tensor = _Tensor(name, bare.partition(".lora_")[0], checkpoint.tensors(name)[0])
        if ".lora_" in bare and bare.partition(".lora_")[2] not in ("A.weight", "B.weight"):
            raise CheckpointError(f"{file} has {name!r:.200}, which is not an adapter of a linear layer.")
        if not tensor.value.is_floating_point():
            raise CheckpointError(f"{file} has {name!r:.200} of {tensor.value.dtype}; expected floating-point numbers.")
        key = names.canonical(bare.removeprefix(BACKBONE))
        if key in found:
            raise CheckpointError(f"{file} holds the same tensor as {found[key].name!r:.200} and as {name!r:.200}.")
        found[key] = tensor
    if not found:
        raise CheckpointError(f"{file} holds no tensors. Download it again.")
    return found


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, layer in model.named_modules():
        if hasattr(layer, "in_features") and hasattr(layer, "out_features") and hasattr(layer, "weight"):
            yield name, layer


def _scores_tokens(model: Any, name: str) -> bool:
    """Whether a layer is the output layer over the vocabulary, which computes fewer tokens than the others."""
    bare = name.removeprefix(BACKBONE)
    return any(kind == "vocab" and fnmatchcase(bare, pattern) for pattern, kind in model.plan.items())


def _low_rank(
    name: str, layer: Any, names: NameMap, tensors: Mapping[str, _Tensor], scales: _Scales, used: set[str]
) -> LowRank | None:
    for part in names.parts(f"{name}.weight"):
        theirs = part.theirs.removesuffix(".weight")
        keys = [f"{theirs}.lora_{letter}.weight" for letter in "AB"]
        if not any(key in tensors for key in keys):
            continue
        missing = next((key for key in keys if key not in tensors), None)
        if missing is not None:
            raise CheckpointError(
                f"The adapter has no {missing!r:.200}, the other matrix of {name}. Download it again."
            )
        a, b = (tensors[key].value for key in keys)
        # Both are as of a linear layer, also where the file holds the matrix itself transposed.
        views = dataclasses.replace(part, row=dataclasses.replace(part.row, transposed=False)).views(b)
        own = None if views is None else torch.cat(views)
        if own is None or (*a.shape[1:], *own.shape) != (layer.in_features, layer.out_features, *a.shape[:1]):
            raise CheckpointError(
                f"The adapter's {tensors[keys[0]].name!r:.200} {list(a.shape)} and lora_B {list(b.shape)} do not fit "
                f"{name} [{layer.out_features}, {layer.in_features}]: it was trained on a model of another size."
            )
        used.update(keys)
        return LowRank(a, own, scales.of(tensors[keys[0]].layer, len(a)))
    return None


def _replaced(name: str, layer: Any, names: NameMap, tensors: Mapping[str, _Tensor], used: set[str]) -> Replaced | None:
    """A layer of ``modules_to_save``."""
    found: dict[str, torch.Tensor | None] = {}
    for leaf, own in (("weight", layer.weight), ("bias", layer.bias)):
        parts = [part.theirs for part in names.parts(f"{name}.{leaf}") if part.row.part == (0, 1)]
        key = next((key for key in parts if key in tensors), None)
        if key is not None and (own is None or tensors[key].value.shape != own.shape):
            raise CheckpointError(
                f"The adapter's {tensors[key].name!r:.200} {list(tensors[key].value.shape)} does not fit {name}.{leaf} "
                f"{None if own is None else list(own.shape)}: it was trained for other classes or another model."
            )
        found[leaf] = None if key is None else tensors[key].value
        used.update([] if key is None else [key])
    weight, bias = found["weight"], found["bias"]
    if weight is None and bias is None:
        return None
    if weight is None or (bias is None and layer.bias is not None):
        raise CheckpointError(f"The adapter has only one of weight and bias of {name}. Download it again.")
    return Replaced(weight, bias)
