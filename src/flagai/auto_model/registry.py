"""Which class loads a folder, by the records of the families."""

from collections.abc import Mapping
from typing import Any

from flagai.checkpoint.reader import Checkpoint
from flagai.errors import ConfigError
from flagai.families.config_content import architecture_of, family_of
from flagai.families.family import Family, all_families, family_named, family_names, is_family
from flagai.model.base_model import BaseModel
from flagai.typed_json import shown


def class_named(name: str, first: Family | None = None) -> type[BaseModel]:
    """A model class by its own name or its name in transformers.

    Args:
        name: the name.
        first: the family to which it probably belongs; ``ChatGLMModel`` means a class of each of two.

    Raises:
        ConfigError: there is no such class.
    """
    for family in (*([first] if first else []), *all_families()):
        for row in family.classes:
            if name == row.name or name in row.architectures:
                found: type[BaseModel] = family.load(row.name)
                return found
    known = sorted(row.name for family in all_families() for row in family.classes)
    raise ConfigError(f"There is no model class {shown(name)}. Known: {', '.join(known)}.")


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
    name = family_of(config)
    if name is None or not is_family(name):
        raise ConfigError(
            f"config.json describes no model of {', '.join(family_names())}; its keys are {shown(sorted(config))}."
        )
    family = family_named(name)
    backbone: type[BaseModel] = family.load(family.classes[0].name)
    tensors = {backbone.names.canonical(tensor): tensor for tensor in checkpoint}
    heads = [row for row in family.classes if row.head in tensors]
    for row in heads:
        if row.head_first:
            weight = checkpoint.tensors(tensors[str(row.head)])[0]
            missing = row.head_classes and "class_num" not in config and weight.dim() > 0
            return family.load(row.name), {"class_num": len(weight)} if missing else {}
    stated = architecture_of(config)
    found = backbone if stated is None else class_named(stated, family)
    if found is backbone and heads:
        found = family.load(heads[0].name)
    return found, {}
