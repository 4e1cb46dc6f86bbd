"""What a sentence-transformers folder asks for: pooling, prompts and lengths, honoured or refused."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai.errors import ConfigError
from flagai.typed_json import Fields, parse_json, read_json, shown

_MODULES = "modules.json"
_POOLING = "1_Pooling"
_PROMPTS = "config_sentence_transformers.json"
_KNOWN = ("Transformer", "Pooling", "Normalize")
_MEAN = ("pooling_mode_mean_tokens", "mean")
_CURE = "flagai embeds by the mean of the last hidden states. Take another model, or sentence-transformers"


@dataclass(frozen=True)
class SentenceSettings:
    """How a folder's sentences are embedded."""

    # How many tokens are read, special ones included; None for all that the model has positions for.
    max_length: int | None = None
    lower: bool = False  # whether texts are lower-cased first
    similarity: str = "cosine"  # how two vectors are compared

    @classmethod
    @functools.lru_cache(maxsize=64)  # a call for one sentence should not read four files
    def read(cls, folder: Path) -> "SentenceSettings":
        """Read the files of sentence-transformers in a folder; a folder without them asks for nothing.

        Raises:
            ConfigError: a file is broken, or asks for a pooling, a module or a prompt that is not done here.
        """
        for place in _pooling_folders(folder):
            _check_pooling(place / "config.json")
        similarity = _check_prompts(folder / _PROMPTS)
        file = next(folder.glob("sentence_*_config.json"), None)
        if file is None:
            return cls(similarity=similarity)
        fields = Fields(read_json(file), str(file))
        longest = fields.integer("max_seq_length", None)
        if longest is not None and longest < 1:
            fields.wrong("max_seq_length", "a whole number of at least 1")
        return cls(longest, fields.flag("do_lower_case", False), similarity)


def check_similarity(folder: Path) -> None:
    """Refuse a folder whose vectors are compared otherwise than by their cosine.

    Raises:
        ConfigError: it asks for another measure.
    """
    found = SentenceSettings.read(folder).similarity
    if found != "cosine":
        raise ConfigError(f"{folder / _PROMPTS} asks for the similarity {shown(found)}; only 'cosine' is supported.")


def _pooling_folders(folder: Path) -> Iterator[Path]:
    """Where the pooling is described, by the list of modules; every module must be known."""
    file = folder / _MODULES
    if not file.is_file():
        if (folder / _POOLING / "config.json").is_file():
            yield folder / _POOLING
        return
    modules = _list(file)
    for number, entry in enumerate(modules):
        fields = Fields(entry if isinstance(entry, dict) else {}, f"{file}, module {number}")
        name, path = fields.text("type", "").rpartition(".")[2], fields.text("path", "")
        if name not in _KNOWN:
            raise ConfigError(f"{file} asks for the module {shown(fields.table.get('type'))}. {_CURE}.")
        if name == "Pooling":
            yield folder / Path(path).name


def _list(file: Path) -> list[Any]:
    try:
        content = parse_json(file.read_bytes(), str(file))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}).") from error
    if not isinstance(content, list):
        raise ConfigError(f"{file} holds {shown(content)}; expected a list of modules.")
    return content


def _check_pooling(file: Path) -> None:
    if not file.is_file():
        raise ConfigError(f"{file} is absent, although {_MODULES} names it. Fetch the folder again.")
    fields = Fields(read_json(file), str(file))
    wanted = [name for name in fields.table if name.startswith("pooling_mode_") and fields.flag(name, False)]
    mode = fields.table.get("pooling_mode")  # newer folders name it
    wanted += [] if mode is None else [str(entry) for entry in (mode if isinstance(mode, list) else [mode])]
    if [name for name in wanted if name not in _MEAN] or not wanted:
        raise ConfigError(f"{file} asks for {', '.join(wanted)[:200] or 'no pooling'}. {_CURE}.")


def _check_prompts(file: Path) -> str:
    """How vectors are compared; a prompt that stands before every text is refused."""
    if not file.is_file():
        return "cosine"
    fields = Fields(read_json(file), str(file))
    name = fields.text("default_prompt_name", None)
    prompt = None if name is None else fields.mapping("prompts").get(name)
    if prompt:
        raise ConfigError(
            f"{file} asks for the prompt {shown(prompt)} before every text, which is not supported. {_CURE}."
        )
    return fields.text("similarity_fn_name", "cosine")
