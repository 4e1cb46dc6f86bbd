"""Which class loads a folder: families, classes and the names they have in transformers, as tables."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flagai.checkpoint.reader import Checkpoint
from flagai.errors import ConfigError
from flagai.model.base_model import BaseModel
from flagai.model.config_content import architecture_of, family_of
from flagai.typed_json import shown

MODULES = {
    "GLM": "flagai.model.glm_model",
    "Bert": "flagai.model.bert_model",
    "GPT2": "flagai.model.gpt2_model",
    "T5": "flagai.model.t5_model",
}
BACKBONES = {"glm": "GLMModel", "bert": "BertModel", "gpt2": "GPT2Model", "t5": "T5Model"}
# Names in a config.json's `architectures` that differ from ours.
ARCHITECTURES = {
    "BertForMaskedLM": "BertForMaskLM",
    "BertForPreTraining": "BertForMaskLM",
    "BertForSequenceClassification": "BertForClsClassifier",
    "BertForTokenClassification": "BertForSequenceLabeling",
    "RobertaModel": "BertModel",
    "GPT2LMHeadModel": "GPT2Model",
    "T5ForConditionalGeneration": "T5Model",
    "T5WithLMHeadModel": "T5Model",
    "MT5ForConditionalGeneration": "T5Model",
    "GLMForConditionalGeneration": "GLMModel",
}


@dataclass(frozen=True)
class HeadTensor:
    """A tensor that only one class has; its rows are the number of classes where ``counts`` says so."""

    tensor: str
    class_name: str
    counts: bool = True


# FlagAI's own heads. They are looked for first: its trainer copies `architectures` from the backbone.
HEADS = (
    HeadTensor("crf_layer.trans", "BertForSequenceLabelingCRF"),
    HeadTensor("gp.dense.weight", "BertForSequenceLabelingGP", counts=False),
    HeadTensor("final_dense.weight", "BertForSequenceLabeling"),
    HeadTensor("out_layer.weight", "BertForClsClassifier"),
    HeadTensor("multichoice_head.weight", "GLMForSequenceClassification"),
)
MASK_LM = HeadTensor("cls.predictions.transform.dense.weight", "BertForMaskLM", counts=False)


def class_named(name: str) -> type[BaseModel]:
    """A model class by its own name or its name in transformers.

    Raises:
        ConfigError: there is no such class.
    """
    name = ARCHITECTURES.get(name, name)
    for prefix, module in MODULES.items():
        if name.startswith(prefix):
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and issubclass(found, BaseModel):
                return found
    raise ConfigError(f"There is no model class {shown(name)}. Known: {', '.join(class_names())}.")


def class_names() -> list[str]:
    """The names of all model classes."""
    modules = [importlib.import_module(module) for module in MODULES.values()]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    models = [cls for cls in found if issubclass(cls, BaseModel) and cls is not BaseModel]
    return sorted({cls.__name__ for cls in models if not cls.__name__.startswith("_")})


def find_class(config: Mapping[str, Any], checkpoint: Checkpoint) -> tuple[type[BaseModel], dict[str, Any]]:
    """Choose the class for a folder: by FlagAI's heads among its tensors, its ``architectures``, its family.

    Args:
        config: the content of config.json.
        checkpoint: the opened weights.

    Returns:
        The class, and settings that the configuration lacks but the tensors tell.

    Raises:
        ConfigError: the family cannot be told, or the architecture is unknown.
    """
    family = family_of(config)
    if family not in BACKBONES:
        raise ConfigError(
            f"config.json describes no model of {', '.join(BACKBONES)}; its keys are {shown(sorted(config))}."
        )
    backbone = class_named(BACKBONES[family])
    tensors = {backbone.names.canonical(name): name for name in checkpoint}
    for head in HEADS:
        if head.tensor in tensors:
            shape = checkpoint.tensors(tensors[head.tensor])[0].shape
            missing = head.counts and "class_num" not in config and len(shape) > 0
            return class_named(head.class_name), {"class_num": shape[0]} if missing else {}
    stated = architecture_of(config)
    found = backbone if stated is None else class_named(stated)
    if found is backbone and MASK_LM.tensor in tensors:
        found = class_named(MASK_LM.class_name)
    return found, {}
