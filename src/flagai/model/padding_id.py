"""Which token id is padding, as the files of a vocabulary say."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai.errors import ConfigError
from flagai.typed_json import as_int, open_regular, read_json

logger = logging.getLogger(__name__)
_USUAL = ("[PAD]", "<pad>")
# Files that name special tokens; the first that does counts.
_NAMING = ("tokenizer_config.json", "special_tokens_map.json")
_TOKENIZER_LIMIT = 64 << 20


@dataclass(frozen=True)
class VocabularyPadding:
    """What a vocabulary says of padding.

    Args:
        id: the padding token's; None if the vocabulary has no token that is padding and nothing else.
        file: the file that says so.
    """

    id: int | None
    file: str

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
    """Find the padding token of the vocabulary in a folder.

    A token that also ends or starts texts, as GPT-2's users choose it, cannot be told from text by its id.

    Args:
        folder: where the vocabulary's files are.
        size: how many tokens the model knows; a token beyond them is none of its own.

    Returns:
        What they say; None if there are none, or they do not say it. Damaged files say nothing here: the tokenizer's
        reader reports them.
    """
    settings = _content(folder / "tokenizer_config.json")
    named = [_content(folder / name) for name in _NAMING]
    pad, *ends = (
        next((text for table in named if (text := _text(table.get(f"{role}_token")))), None)
        for role in ("pad", "eos", "bos")
    )
    if pad is not None and pad in ends:
        return VocabularyPadding(None, _NAMING[0])
    for name in _USUAL if pad is None else (pad,):
        for file, find in _SOURCES.items():
            number = find(settings if file == _NAMING[0] else folder / file, name)
            if number is not None and number < size:
                return VocabularyPadding(number, file)
    return None


def _content(path: Path, limit: int = 8 << 20) -> dict[str, Any]:
    try:
        return read_json(path, limit=limit) if path.is_file() else {}
    except ConfigError:
        return {}


def _bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(_TOKENIZER_LIMIT)
    except OSError:
        return b""


def _text(token: Any) -> str | None:
    """A special token's text; some files say more of it."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) and text else None


def _in_added(settings: Any, name: str) -> int | None:
    entries = settings.get("added_tokens_decoder")
    found = entries.items() if isinstance(entries, dict) else ()
    return next((as_int(number) for number, entry in found if _text(entry) == name), None)


def _in_lines(path: Path, name: str) -> int | None:
    lines = _bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    word = name.encode()
    return next((number for number, line in enumerate(lines) if line.rstrip(b"\r") == word), None)


def _in_mapping(path: Path, name: str) -> int | None:
    """Search the text of a flat object, which is a megabyte: to parse it takes ten times longer."""
    text = _bytes(path)
    found = re.search(re.escape(json.dumps(name).encode()) + rb"\s*:\s*(\d{1,9})\b", text)
    return int(found[1]) if found else None


def _in_tokenizer(path: Path, name: str) -> int | None:
    entries = _content(path, _TOKENIZER_LIMIT).get("added_tokens")
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return next((as_int(entry.get("id")) for entry in found if _text(entry) == name), None)


# Cheap ones first.
_SOURCES: dict[str, Any] = {
    "tokenizer_config.json": _in_added,
    "vocab.txt": _in_lines,
    "added_tokens.json": _in_mapping,
    "vocab.json": _in_mapping,
    "tokenizer.json": _in_tokenizer,
}
