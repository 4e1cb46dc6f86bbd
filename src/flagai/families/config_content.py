"""What a config.json says of its model, whichever class reads it."""

from collections.abc import Mapping
from typing import Any

from flagai.catalog.card import glm_generation
from flagai.errors import ConfigError, InputError
from flagai.families.family import all_families, is_family
from flagai.typed_json import Fields, as_int, shown


def check_mapping(values: Any, source: str) -> None:
    """Refuse what holds no settings.

    Raises:
        InputError: it is not a mapping.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{source} is {shown(values)}; expected settings, as <config class>.from_json(path) reads.")


def with_labels(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Content whose ``id2label`` is a table from numbers, written as texts, to names; absent if it names nothing.

    Raises:
        ConfigError: it is not a table of names, or its keys are no numbers.
    """
    named = values.get("id2label")
    table = dict(enumerate(named)) if isinstance(named, list) else Fields(values, place).mapping("id2label")
    numbers = [as_int(key) for key in table]
    if None in numbers or not all(isinstance(name, str | int | float) for name in table.values()):
        raise ConfigError(f'{place}, id2label: {shown(named)} is not a table of numbers and names, as {{"0": "O"}} is.')
    rest = {key: value for key, value in values.items() if key != "id2label"}
    return {**rest, "id2label": dict(zip(map(str, numbers), table.values(), strict=True))} if table else rest


def architecture_of(values: Mapping[str, Any]) -> str | None:
    """The class that a configuration names in ``architectures``, a list or a text; None if it names none.

    Raises:
        ConfigError: it is neither.
    """
    stated = values.get("architectures")
    names = [stated] if isinstance(stated, str) else Fields(values, "config.json").texts("architectures")
    return names[0] if names else None


def model_type_of(values: Mapping[str, Any], classes: Mapping[str, str]) -> str:
    """What a configuration says in ``model_type``, in lower case; where it is silent, what its architecture tells.

    Args:
        values: the content of a config.json.
        classes: beginnings of transformers' class names, and the ``model_type`` that each means.

    Raises:
        ConfigError: one of the two is not text.
    """
    stated = Fields(values, "config.json").text("model_type", "").lower()
    name = "" if stated else architecture_of(values) or ""
    return stated or next((kind for beginning, kind in classes.items() if name.startswith(beginning)), "")


# Later GLMs of other architectures, by the beginnings of `model_type`, and where they run.
_ELSEWHERE = {
    "glm4_moe": "a mixture of experts",
    "glm_moe": "a mixture of experts with sparse attention",
    "glm5": "of a later architecture",
    "glm4v": "a vision model",
    "glm46v": "a vision model",
    "glm_ocr": "a vision model",
    "glm_image": "an image model",
    "glmasr": "a speech model",
}


def family_of(values: Mapping[str, Any], place: str = "config.json") -> str | None:
    """Name the family that a configuration describes; None if nothing tells.

    Keys decide where generations share a name: ``architectures`` is ["ChatGLMModel"] in all of ChatGLM-6B to GLM-4, and
    ``model_type`` is "glm" in GLM and in transformers' format of GLM-4.

    Raises:
        ConfigError: ``model_type`` is not text, or names a GLM that is not here.
    """
    stated = Fields(values, place).text("model_type", "").lower()
    if (generation := glm_generation(stated, values)) is not None:
        return generation
    kind = next((kind for name, kind in _ELSEWHERE.items() if stated.startswith(name)), None)
    if kind is not None:
        raise ConfigError(
            f"{place} describes a {shown(stated)} model, {kind}. flagai has the text GLMs "
            "without experts, up to GLM-4-0414. Load this one with a recent transformers or vLLM."
        )
    if is_family(stated):
        return stated
    families = list(all_families())
    if stated:
        return next((family.name for family in families if stated in family.model_types), stated)
    signed = (family.name for family in families if family.signature and values.keys() >= set(family.signature))
    return next(signed, None)
