"""Folders of ChatGLM and GLM-4 in their authors' format: which generation's tokenizer they have."""

import re
from pathlib import Path

from flagai.catalog.card import Card
from flagai.data.tokenizer.description import ICE_FILE, RANKS_FILE, Description
from flagai.data.tokenizer.ranks import is_ranks
from flagai.data.tokenizer.saved import TABLE_KEY, Saved
from flagai.errors import VocabularyError

CHAT_TABLES = ("chatglm", "chatglm2", "codegeex2", "chatglm3", "glm4")
_CLASSES = ("ChatGLMTokenizer", "ChatGLM4Tokenizer")
_CODE_FILE = "tokenization_chatglm.py"
_MOST_CODE = 1 << 20
# ChatGLM2 and ChatGLM3 have the same vocabulary and, in the first months, the same settings but for their names.
_BY_NAME = {"codegeex2": "codegeex2", "chatglm2": "chatglm2", "chatglm3": "chatglm3"}
_ROLE = "<|observation|>"  # ChatGLM2 has no token of this name
_SEPARATORS = re.compile(r"[-_ .]")


def chatglm_description(saved: Saved, name: str, card: Card | None) -> Description | None:
    """What the tokenizer of ChatGLM or GLM-4 in a folder is; None if it is of another model.

    Raises:
        VocabularyError: the files do not say which generation they belong to.
    """
    if not _is_chatglm(saved, card):
        return None
    if (saved.folder / ICE_FILE).is_file():
        return Description(saved, name, "sentencepiece", (ICE_FILE,), table="chatglm", family="chatglm")
    path = saved.folder / RANKS_FILE
    if not path.is_file():
        return None
    if is_ranks(path):
        return Description(saved, name, "tiktoken", (RANKS_FILE,), table="glm4", family="chatglm2")
    table = saved.command_table or _generation(saved, name, card)
    return Description(saved, name, "sentencepiece", (RANKS_FILE,), table=table, family="chatglm2")


def _is_chatglm(saved: Saved, card: Card | None) -> bool:
    if saved.command_table is not None:
        return saved.command_table in CHAT_TABLES
    stated = saved.stated_class in _CLASSES or saved.config.text("model_type", "").lower() == "chatglm"
    known = card is not None and card.tokenizer.command_table in CHAT_TABLES and saved.family is None
    return stated or known or (saved.folder / ICE_FILE).is_file()


def _generation(saved: Saved, name: str, card: Card | None) -> str:
    """Whether ``tokenizer.model`` is ChatGLM2's or ChatGLM3's."""
    if any(entry.content == _ROLE for entry in saved.added.stated):
        return "chatglm3"
    stated = [saved.options.text("name_or_path", ""), saved.config.text("_name_or_path", "")]
    for text in (*stated, "" if card is None else card.name, name, saved.folder.name):
        found = next((table for part, table in _BY_NAME.items() if part in _SEPARATORS.sub("", text.lower())), None)
        if found is not None:
            return found
    code = _code(saved.folder / _CODE_FILE)
    if code is not None:
        return "chatglm3" if _ROLE in code else "chatglm2"
    raise VocabularyError(
        f"{saved.folder} does not say whether its tokenizer is ChatGLM2's or ChatGLM3's. Write "
        f'"{TABLE_KEY}": "chatglm2" (or "chatglm3") into tokenizer_config.json.'
    )


def _code(path: Path) -> str | None:
    """The text of the repository's own code, which is searched for a name and never run."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(_MOST_CODE).decode(errors="replace")
