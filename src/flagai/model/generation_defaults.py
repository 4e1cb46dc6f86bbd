"""What a folder sets for transformers' ``generate``: told, not followed, since ``write`` has defaults of its own."""

import logging
from pathlib import Path
from typing import Any

from flagai.typed_json import read_json, shown

logger = logging.getLogger(__name__)
FILE = "generation_config.json"
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

    Args:
        folder: the model's folder.

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
