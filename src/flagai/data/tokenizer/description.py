"""What a folder's tokenizer is: from the model's card, else from its configuration and its files."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagai.errors import ConfigError, ModelNotFoundError, VocabularyError

if TYPE_CHECKING:
    from flagai.catalog.card import Card

SENTENCEPIECE_FILES = ("cog-pretrain.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
FAST_FILE = "tokenizer.json"
_BPE_FILES = ("vocab.json", "merges.txt")
_WORDPIECE_FILES = ("vocab.txt",)
# The file lists of every kind, the best first; a kind is possible where all files of one list are there.
FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    "sentencepiece": tuple((name,) for name in SENTENCEPIECE_FILES),
    "t5": (*((name,) for name in reversed(SENTENCEPIECE_FILES)), (FAST_FILE,)),
    "wordpiece": ((FAST_FILE,), _WORDPIECE_FILES),
    "bpe": (_BPE_FILES, (FAST_FILE,)),
    "fast": ((FAST_FILE,),),
}
SEGMENTERS = ("jieba", "characters")


@dataclass(frozen=True)
class Description:
    """What a tokenizer is, before its files are read.

    Args:
        folder: where the files are.
        name: the model's name.
        kind: "sentencepiece" (Chinese GLM), "wordpiece", "bpe", "t5" or "fast" (any other ``tokenizer.json``).
        files: the files to read.
        table: the table of command tokens; None: as ``tokenizer.json`` says.
        family: the model's family, if it is known.
        language: "zh", "en" or None.
        segmenter: "jieba" where text is cut into words first.
    """

    folder: Path
    name: str
    kind: str
    files: tuple[str, ...]
    table: str | None = None
    family: str | None = None
    language: str | None = None
    segmenter: str | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files to read."""
        return tuple(self.folder / name for name in self.files)

    def changed(self, fix_command_token: bool | None, segmenter: str | None) -> "Description":
        """The description with what a caller wants otherwise.

        Raises:
            ConfigError: there is no such segmenter, or it has nothing to do here.
        """
        changes: dict[str, Any] = {}
        if fix_command_token is not None and self.table in ("fixed", "unfixed"):
            changes["table"] = "fixed" if fix_command_token else "unfixed"
        if segmenter is not None:
            if segmenter not in SEGMENTERS or self.kind != "wordpiece":
                raise ConfigError(
                    f"segmenter={segmenter!r} does not fit a tokenizer of the kind {self.kind!r}. It is one of "
                    f"{', '.join(SEGMENTERS)}, for the vocabulary of T5-PEGASUS."
                )
            changes["segmenter"] = "jieba" if segmenter == "jieba" else None
        return replace(self, **changes)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer."""
    return any(_present(folder, kind) for kind in FILES)


def describe(folder: Path, name: str, card: "Card | None") -> Description:
    """Find out what a folder's tokenizer is.

    Args:
        folder: the folder.
        name: the model's name.
        card: its card, if it has one.

    Raises:
        ModelNotFoundError: the folder has no tokenizer.
    """
    config = read_settings(folder / "config.json")
    kinds = [card.tokenizer.kind] if card is not None else []
    kinds += _likely_kinds(folder, config)
    kind = next((kind for kind in kinds if _present(folder, kind)), None)
    if kind is None:
        raise ModelNotFoundError(_absent(folder, name, card))
    family = card.family if card is not None else _family(config) or ("glm" if kind == "sentencepiece" else None)
    own_kind = card is not None and card.tokenizer.kind == kind
    files = _present(folder, kind)
    return Description(
        folder=folder,
        name=name,
        kind=kind,
        files=files,
        table=_card_table(card) if own_kind and card is not None else _table(kind, family, config),
        family=family,
        language=card.language if card is not None else _language(name),
        segmenter=card.tokenizer.segmenter if own_kind and card is not None else None,
    )


def _likely_kinds(folder: Path, config: dict[str, Any]) -> list[str]:
    """Kinds in the order in which the files are looked for where no card says more."""
    if _present(folder, "sentencepiece"):
        return ["t5" if _is_t5(folder, config) else "sentencepiece", "fast"]
    if (folder / FAST_FILE).is_file():
        return ["t5" if _family(config) == "t5" else "fast"]
    return ["wordpiece", "bpe"]


def _is_t5(folder: Path, config: dict[str, Any]) -> bool:
    """T5's SentencePiece models begin with <pad>, </s>; GLM's have no <pad> at all."""
    from flagai.data.tokenizer.sentencepiece_engine import load_sentencepiece

    family = _family(config)
    if family is not None:
        return family == "t5"
    processor = load_sentencepiece(folder / _present(folder, "sentencepiece")[0])
    return bool(processor.pad_id() == 0 and processor.eos_id() == 1)


def _card_table(card: "Card") -> str | None:
    tokens = card.tokenizer.tokens
    if card.tokenizer.kind == "bpe":
        return "glm-bpe" if "gMASK" in tokens else "glm-roberta" if "sop" in tokens else "gpt2"
    return card.tokenizer.command_table or card.tokenizer.kind


def _table(kind: str, family: str | None, config: dict[str, Any]) -> str | None:
    if kind == "bpe":
        roberta = config.get("model_type") == "roberta"
        return "glm-bpe" if family == "glm" else None if roberta else "gpt2"
    return {"sentencepiece": "fixed", "wordpiece": "wordpiece", "t5": "t5"}.get(kind)


def _family(config: dict[str, Any]) -> str | None:
    families = {"glm": "glm", "t5": "t5", "mt5": "t5", "bert": "bert", "gpt2": "gpt2"}
    found = families.get(str(config.get("model_type", "")).lower())
    return "glm" if found is None and "block_position_encoding" in config else found


def _language(name: str) -> str | None:
    """FlagAI's names end with the language."""
    last = name.lower().replace("_", "-").rpartition("-")[2]
    return {"ch": "zh", "zh": "zh", "chinese": "zh", "en": "en", "english": "en"}.get(last)


def _present(folder: Path, kind: str) -> tuple[str, ...]:
    """The files of a kind that the folder has; none if one is missing."""
    return next((files for files in FILES[kind] if all((folder / name).is_file() for name in files)), ())


def _absent(folder: Path, name: str, card: "Card | None") -> str:
    wanted = card.tokenizer.files if card is not None else ("vocab.txt", "vocab.json + merges.txt", "spiece.model")
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) if folder.is_dir() else "no such folder"
    cure = f"Type: flagai download {card.name}, or put" if card is not None else "Put"
    return (
        f"{folder.absolute()} has no tokenizer for {name!r}: expected {', '.join(wanted)} or {FAST_FILE}. {cure} the "
        f"files there. Found: {found or 'an empty folder'}."
    )


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a JSON file with settings; empty if there is no file.

    Raises:
        VocabularyError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise VocabularyError(f"{path} cannot be read as JSON: {error}. Fetch it again.") from error
    if not isinstance(content, dict):
        raise VocabularyError(f"{path} holds a {type(content).__name__}, not an object. Fetch it again.")
    return content
