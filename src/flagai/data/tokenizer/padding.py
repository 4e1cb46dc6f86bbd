"""Which token id is padding, as the files of a vocabulary say."""

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from flagai.data.tokenizer.added import Added, added_tokens_decoder, listed_tokens, named_tokens
from flagai.data.tokenizer.saved import ADDED_FILE, FAST_FILE, OPTIONS_FILE, SPECIAL_FILE
from flagai.errors import FlagAIError, VocabularyError
from flagai.typed_json import SIZE_LIMIT, Fields, open_regular, read_json

T = TypeVar("T")

logger = logging.getLogger(__name__)
_USUAL = ("[PAD]", "<pad>")
_TOKENIZER_LIMIT = 64 << 20


class VocabularyPadding(NamedTuple):
    """What a vocabulary says of padding."""

    id: int | None  # None if the vocabulary has no token that is padding and nothing else
    file: str  # which says so

    def instead_of(self, stated: int | None, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """The content of a config.json that names another padding id, with this one; a warning says so."""
        logger.warning(
            "%s says pad_token_id %s, but in %s padding is %s, which counts. Pass pad_token_id= to have it otherwise.",
            folder / "config.json",
            stated,
            self.file,
            self.id,
        )
        return {**values, "pad_token_id": self.id}


def vocabulary_padding(folder: Path, size: int) -> VocabularyPadding | None:
    """The padding token of the vocabulary in a folder, if it is one of the ``size`` that the model knows.

    A token that also ends or starts texts, as GPT-2's users choose it, cannot be told from text by its id. Damaged
    files say nothing here: the tokenizer's reader reports them.
    """
    options, special_map = (_fields(folder / name) for name in (OPTIONS_FILE, SPECIAL_FILE))
    named = _unless_damaged(lambda: named_tokens(options, special_map)) or {}
    pad, *ends = (token.content if (token := named.get(role)) else None for role in ("pad", "eos", "bos"))
    if pad is not None and pad in ends:
        return VocabularyPadding(None, OPTIONS_FILE)
    # Cheap ones first.
    finders: dict[str, Callable[[str], int | None]] = {
        OPTIONS_FILE: lambda name: _id_of(name, lambda: added_tokens_decoder(options)),
        "vocab.txt": lambda name: _in_lines(folder / "vocab.txt", name),
        ADDED_FILE: lambda name: _in_mapping(folder / ADDED_FILE, name),
        "vocab.json": lambda name: _in_mapping(folder / "vocab.json", name),
        FAST_FILE: lambda name: _id_of(name, lambda: listed_tokens(_fields(folder / FAST_FILE, _TOKENIZER_LIMIT))),
    }
    for name in _USUAL if pad is None else (pad,):
        for file, find in finders.items():
            number = find(name)
            if number is not None and number < size:
                return VocabularyPadding(number, file)
    return None


def _unless_damaged(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except FlagAIError:
        return None


def _fields(path: Path, limit: int = SIZE_LIMIT) -> Fields:
    content = _unless_damaged(lambda: read_json(path, limit=limit)) if path.is_file() else None
    return Fields(content or {}, str(path), VocabularyError)


def _id_of(name: str, read: Callable[[], Mapping[int, Added] | None]) -> int | None:
    tokens = _unless_damaged(read) or {}
    return next((number for number, token in tokens.items() if token.content == name), None)


def _bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(_TOKENIZER_LIMIT)
    except OSError:
        return b""


def _in_lines(path: Path, name: str) -> int | None:
    lines = _bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    word = name.encode()
    return next((number for number, line in enumerate(lines) if line.rstrip(b"\r") == word), None)


def _in_mapping(path: Path, name: str) -> int | None:
    """Search the text of a flat object, which is a megabyte: to parse it takes ten times longer."""
    text = _bytes(path)
    found = re.search(re.escape(json.dumps(name).encode()) + rb"\s*:\s*(\d{1,9})\b", text)
    return int(found[1]) if found else None
