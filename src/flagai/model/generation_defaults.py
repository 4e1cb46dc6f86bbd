"""What a folder sets for transformers' ``generate``: told, not followed, since ``write`` has defaults of its own.

What ends an answer, ``eos_token_id``, belongs to the model and is followed.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flagai.typed_json import Fields, as_int, read_json, shown

logger = logging.getLogger(__name__)
FILE = "generation_config.json"
_ENDS = "eos_token_id"
# Settings that change what is written -> the values with which they do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "temperature": (1.0,),
    "top_k": (50, 0),
    "top_p": (1.0,),
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "length_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_length": (20,),
    "max_new_tokens": (),
}


def tell_generation_defaults(folder: Path) -> None:
    """Warn of what a folder's generation_config.json asks for, if it does.

    Raises:
        ConfigError: the file is damaged.
    """
    path = folder / FILE
    content = read_json(path) if path.is_file() else {}
    asked = [
        f"{name}={shown(content[name])}"
        for name, neutral in _NEUTRAL.items()
        if content.get(name) is not None and content[name] not in neutral
    ]
    if asked:
        logger.warning(
            "%s sets %s for generate() of transformers. Here only the arguments of write() count: pass what you want.",
            path,
            ", ".join(asked),
        )


def token_ids(stated: Fields, name: str) -> list[int]:
    """The ids that a file states: one id, a list of ids, or none.

    Raises:
        ConfigError: the value is neither.
    """
    value = stated.table.get(name)
    ids = [as_int(entry) for entry in (value if isinstance(value, list) else [] if value is None else [value])]
    return [number if number is not None else stated.wrong(name, "an id or a list of ids") for number in ids]


def with_end_tokens(values: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """A configuration whose ``eos_token_id`` is that of generation_config.json, if it states one.

    Raises:
        ConfigError: the file is damaged.
    """
    path = folder / FILE
    ends = token_ids(Fields(read_json(path), str(path)), _ENDS) if path.is_file() else []
    return {**values, _ENDS: ends} if ends else values


def end_tokens(config: Mapping[str, Any], rows: int) -> tuple[int, ...]:
    """The ids that a configuration names as ``eos_token_id``, without those beyond the vocabulary.

    Raises:
        ConfigError: the value is neither an id nor a list of ids.
    """
    stated = Fields({_ENDS: config.get(_ENDS)}, type(config).__name__)
    return tuple(number for number in token_ids(stated, _ENDS) if 0 <= number < rows)
