"""Recipe files: all that a training run is given, as TOML; each run writes its own beside the result."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from flagai.errors import ConfigError, InputError
from flagai.model.config_fields import field_specs
from flagai.train.checksums import data_digest
from flagai.train.recipe import Recipe
from flagai.typed_json import shown

RECIPE_FILE = "recipe.toml"
# What a run is given besides its Recipe: the name in the file, and the types of its values.
_GIVEN: Mapping[str, tuple[type, ...]] = {
    "task": (str,),
    "model": (str,),
    "data": (str,),
    "data_sha256": (str,),
    "valid": (str,),
    "valid_sha256": (str,),
    "out": (str,),
    "model_dir": (str,),
    "columns": (dict,),
    "track": (str, list),
    "licence": (str,),
}
_DIGEST = "_sha256"


def read_run(path: Path) -> dict[str, Any]:
    """Read a recipe file.

    Args:
        path: a TOML file with fields of :class:`flagai.train.recipe.Recipe`, and ``task``, ``model``, ``data``,
            ``valid``, ``out``, ``model_dir`` and ``columns``, the arguments of
            :func:`flagai.train.finetune.finetune`. Hyphens in names serve as underscores.

    Returns:
        The values by their names.

    Raises:
        InputError: it cannot be read, has an unknown field, or a value of the wrong type.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # of TOML or UTF-8
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The recipe {path} cannot be read: {reason}. Expected TOML, such as epochs = 3.") from error
    return {name: value for given, value in content.items() for name in [_checked(given, value, path)]}


def _checked(given: str, value: Any, path: Path) -> str:
    """The name of a field whose value is right."""
    name, specs = given.replace("-", "_"), field_specs(Recipe)
    known = [*_GIVEN, *specs]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        cure = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
        raise InputError(f"{path} has an unknown field {given!r:.80}. {cure}")
    if name in specs:
        try:
            specs[name].parse(value, str(path))
        except ConfigError as error:
            raise InputError(str(error)) from error
    elif not isinstance(value, _GIVEN[name]):
        raise InputError(f"{path}: {given} is {shown(value)}, expected {_GIVEN[name][0].__name__}.")
    if name == "columns" and not all(isinstance(column, str) for column in value.values()):
        raise InputError(f"{path}: columns is {shown(value)}; expected names, such as {{text = 'abstract'}}.")
    return name


def check_digests(values: Mapping[str, Any]) -> None:
    """Refuse data of another content than the recipe was written for.

    Args:
        values: those of :func:`read_run`.

    Raises:
        InputError: a file has another SHA-256.
    """
    for name in (name for name in values if name.endswith(_DIGEST)):
        place = Path(values.get(name.removesuffix(_DIGEST), ""))
        if name.removesuffix(_DIGEST) in values and place.exists() and data_digest(place) != values[name]:
            raise InputError(
                f"{place} has other content than the data that the recipe was written for ({name}). Take that file, or "
                f"remove the line {name} to train on this one."
            )


def write_run(path: Path, given: Mapping[str, Any], recipe: Recipe, notes: str) -> None:
    """Write a recipe file that :func:`read_run` reads; what is None is left out.

    Args:
        path: the file.
        given: ``task``, ``model`` and so on.
        recipe: how the model was trained.
        notes: what else decided, for a comment.
    """
    values = {**given, **{field.name: getattr(recipe, field.name) for field in fields(recipe)}}
    lines = [f"{name} = {_toml(value)}" for name, value in values.items() if value is not None and value != {}]
    path.write_text("\n".join([f"# {notes}", *lines]) + "\n", encoding="utf-8", newline="\n")


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    # TOML's texts, numbers and booleans are those of JSON, but for DEL.
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False).replace("\x7f", "\\u007f")
