"""Which default model embeds texts: by the script that they are written in."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from flagai.catalog.packages import find_model
from flagai.catalog.tasks import DEFAULT_EMBEDDING
from flagai.errors import InputError, ModelNotFoundError
from flagai.hub.local_state import holds_model

logger = logging.getLogger(__name__)

# script -> the model that knows it
EMBEDDING_MODELS: Mapping[str, str] = {"Latin": DEFAULT_EMBEDDING, "Han": "me5-small-bert-zh"}
_SCRIPTS = {"CJK": "Han"}
_FORMS = ("FULLWIDTH", "HALFWIDTH", "MATHEMATICAL", "MODIFIER", "SUPERSCRIPT", "SUBSCRIPT")
_KANA = ("Hiragana", "Katakana")


def script_of(text: str) -> str | None:
    """The script of most letters of a text, such as "Latin", "Han" or "Cyrillic"; None without letters."""
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else None
    counts: Counter[str] = Counter()
    for letter in filter(str.isalpha, text):
        name = unicodedata.name(letter, "").split(" ", 1)[0].split("-", 1)[0]
        if name and name not in _FORMS:
            counts[_SCRIPTS.get(name, name.capitalize())] += 1
    if not counts:
        return None
    # Japanese is written in Han characters and kana.
    kana = next((name for name in _KANA if counts[name]), None)
    found = counts.most_common(1)[0][0]
    return kana if kana is not None and found == "Han" else found


def default_model(texts: Sequence[str], home: Path | None = None) -> str:
    """The default model for embedding texts: one for all of them, as vectors of two models do not compare.

    Raises:
        InputError: no default model that is on this machine knows their script, or they are in several.
    """
    examples: dict[str, str] = {}
    for text in texts:
        script = script_of(text)
        if script is not None:
            examples.setdefault(script, text)
    models = {EMBEDDING_MODELS.get(script) for script in examples}
    if not examples or models == {DEFAULT_EMBEDDING}:
        return DEFAULT_EMBEDDING
    found = ", ".join(f"{script} ({text[:20]!r})" for script, text in examples.items())
    model = models.pop()
    if models or model is None:
        known = ", ".join(f"{script} ({name})" for script, name in EMBEDDING_MODELS.items())
        raise InputError(
            f"No default model knows the scripts of these texts: {found}. Known: {known}. Name a model by --model."
        )
    try:
        find_model(model, home, holds=holds_model)
    except ModelNotFoundError as error:
        raise InputError(f"{DEFAULT_EMBEDDING} does not know the script of the texts: {found}. {error}") from error
    logger.warning("The texts are in the script %s: using %s instead of %s", found, model, DEFAULT_EMBEDDING)
    return model
