"""What a folder's tokenizer is: what its files say, and where they leave it open, what its name says."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagai.data.tokenizer.saved import CLASSES, FAST_FILE, TABLE_KEY, Saved
from flagai.errors import ConfigError, ModelNotFoundError, VocabularyError

if TYPE_CHECKING:
    from flagai.catalog.card import Card

logger = logging.getLogger(__name__)
SENTENCEPIECE_FILES = ("cog-pretrain.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_BPE_FILES = ("vocab.json", "merges.txt")
_WORDPIECE_FILES = ("vocab.txt",)
# The file lists of every kind, the best first; a kind is possible where all files of one list are there.
FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    "sentencepiece": tuple((name,) for name in SENTENCEPIECE_FILES),
    "t5": tuple((name,) for name in reversed(SENTENCEPIECE_FILES)),
    "wordpiece": (_WORDPIECE_FILES,),
    "bpe": (_BPE_FILES,),
    "fast": ((FAST_FILE,),),
}
_KINDS = {"SentencePiece": "sentencepiece", "WordPiece": "wordpiece", "BPE": "bpe", "Unigram": "t5"}
# The class of a vocabulary that transformers has written, where no file names it.
_CLASS_OF_KIND = {"wordpiece": "BertTokenizer", "bpe": "GPT2Tokenizer", "t5": "T5Tokenizer"}
_G_MASK = "[gMASK]"
SIDES = ("right", "left")
SEGMENTERS = ("jieba", "characters")
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


@dataclass(frozen=True)
class Description:
    """What a tokenizer is, before its vocabulary is read.

    Args:
        saved: the folder's JSON files.
        name: the model's name.
        kind: "sentencepiece" (Chinese GLM), "wordpiece", "bpe", "t5" or "fast" (any other ``tokenizer.json``).
        files: the files of the vocabulary.
        class_name: the class of transformers that it is, if it is one.
        table: the table of command tokens of FlagAI's and THUDM's models; None: as transformers' files say.
        family: the model's family, if it is known.
        language: "zh", "en" or None.
        segmenter: "jieba" where text is cut into words first.
    """

    saved: Saved
    name: str
    kind: str
    files: tuple[str, ...]
    class_name: str | None = None
    table: str | None = None
    family: str | None = None
    language: str | None = None
    segmenter: str | None = None

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.saved.folder

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the vocabulary."""
        return tuple(self.folder / name for name in self.files)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what a model of transformers reads."""
        names = self.saved.options.texts("model_input_names")
        usual = INPUTS if self.class_name in (None, "BertTokenizer") else ("input_ids", "attention_mask")
        return tuple(name for name in INPUTS if name in names) or usual

    @property
    def truncation_side(self) -> str:
        """Where tokens are dropped, "right" or "left": as ``tokenizer_config.json`` says, or else ``tokenizer.json``.

        Raises:
            VocabularyError: it is neither.
        """
        options, truncation = self.saved.options, self.saved.pipeline.table.get("truncation")
        written = truncation.get("direction") if isinstance(truncation, dict) else None
        side = options.text("truncation_side", None) or str(written or "right").lower()
        if side not in SIDES:
            options.fail("truncation_side", f"{side!r:.80}, expected one of {', '.join(SIDES)}.")
        return side

    @property
    def decided(self) -> dict[str, str]:
        """What ``tokenizer_config.json`` has to say where a name or a caller decided which command tokens there are."""
        stated = _G_MASK in {entry.content for entry in self.saved.added.stated} and self.kind == "sentencepiece"
        open_ = self.table is not None and self.kind != "t5" and not stated and _class_table(self.saved) is None
        return {TABLE_KEY: str(self.table)} if open_ else {}

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
        card: the card of this name, if there is one; it counts only where the files leave something open.

    Raises:
        ModelNotFoundError: the folder has no tokenizer.
        VocabularyError: a file is damaged, or the tokenizer is of a class that is not known.
        ConfigError: ``config.json`` is damaged.
    """
    if not has_tokenizer(folder):
        raise ModelNotFoundError(_absent(folder, name, card))
    saved = Saved.read(folder)
    card = _fitting(card, saved)
    found = _of_transformers(saved, name, card) or _of_table(saved, name, card)
    return replace(found, language=None if card is None else card.language)


def _fitting(card: "Card | None", saved: Saved) -> "Card | None":
    """The card, unless the files are those of another model."""
    if card is None:
        return None
    rows, own = saved.config.integer("vocab_size", None), card.config.get("vocab_size")
    differs = {
        "its model is of the family": (saved.family, card.family),
        "its vocabulary has the size": (rows if card.family != "glm" else None, own),
        "its tokenizer is of the kind": (_stated_kind(saved), card.tokenizer.kind),
    }
    for what, (found, expected) in differs.items():
        if found is not None and expected is not None and found != expected:
            logger.info("%s is read as its files say, not as %s: %s %s.", saved.folder, card.name, what, found)
            return None
    return card


def _stated_kind(saved: Saved) -> str | None:
    stated = None if saved.stated_class is None else saved.class_name
    return None if stated is None else _KINDS[CLASSES[stated].model]


# -- transformers' folders ------------------------------------------------------------------------------------------


def _of_transformers(saved: Saved, name: str, card: "Card | None") -> Description | None:
    """A folder that transformers has written, or None."""
    class_name, files = saved.class_name, _present(saved.folder, "fast")
    if saved.command_table or (_class_table(saved) if class_name else saved.family == "glm"):
        return None
    if files:
        return Description(saved, name, _fast_kind(saved), files, class_name, family=_known_family(saved, card))
    if saved.stated_class is not None and class_name is None:
        raise VocabularyError(
            f"{saved.folder}: a tokenizer of the class {saved.stated_class!r:.80} is read from tokenizer.json only. "
            "Write one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    if class_name is None and saved.family is None and _is_roberta(saved.folder):
        class_name = "RobertaTokenizer"
    elif not saved.beside and (card is not None or class_name is None):
        return None
    return _of_class(saved, name, card, class_name)


def _of_class(saved: Saved, name: str, card: "Card | None", class_name: str | None) -> Description | None:
    """A folder with the vocabulary's own files, as transformers wrote them before version 5."""
    kinds = ["t5", "wordpiece", "bpe"] if class_name is None else [_KINDS[CLASSES[class_name].model]]
    kind = next((kind for kind in kinds if _present(saved.folder, kind)), None)
    if kind is None:
        if saved.stated_class is None:
            return None
        wanted = " + ".join(FILES[kinds[0]][0])
        raise VocabularyError(
            f"{saved.folder}: a {class_name} has {wanted} or {FAST_FILE}, but there is only another vocabulary. Fetch "
            "the model's own files."
        )
    if class_name is None and kind == "t5" and not _is_t5(saved):
        return None
    return Description(
        saved,
        name,
        kind,
        _present(saved.folder, kind),
        class_name or _CLASS_OF_KIND[kind],
        table="t5" if kind == "t5" else None,
        family=_known_family(saved, card),
    )


def _fast_kind(saved: Saved) -> str:
    decoder = saved.pipeline.mapping("decoder").get("type")
    if saved.model_type == "BPE":
        return "bpe" if decoder == "ByteLevel" else "fast"
    if saved.model_type == "Unigram":
        return "t5" if saved.class_name == "T5Tokenizer" or saved.family == "t5" else "fast"
    return "wordpiece" if saved.model_type == "WordPiece" else "fast"


# -- FlagAI's and THUDM's folders ------------------------------------------------------------------------------------


def _of_table(saved: Saved, name: str, card: "Card | None") -> Description:
    """A folder of a model whose command tokens are in a table."""
    kinds = [] if card is None or card.tokenizer.kind not in ("wordpiece", "bpe") else [card.tokenizer.kind]
    if saved.class_name is not None and CLASSES[saved.class_name].table is not None:
        kinds = [_KINDS[CLASSES[saved.class_name].model]]
    if _present(saved.folder, "sentencepiece"):
        kinds.append("t5" if _is_t5(saved) else "sentencepiece")
    kind = next(kind for kind in (*kinds, "wordpiece", "bpe", "fast") if _present(saved.folder, kind))
    family = _known_family(saved, card) or ("glm" if kind == "sentencepiece" else None)
    if kind == "sentencepiece" and family != "glm":
        raise VocabularyError(
            f"{saved.folder}: the SentencePiece vocabulary of a {family} is read from tokenizer.json only. Write one: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    files = _present(saved.folder, kind)
    kind = _fast_kind(saved) if kind == "fast" else kind
    table = _table(saved, kind, family, card)
    words = family == "t5" and kind == "wordpiece" and files != (FAST_FILE,) and _has_words(saved.folder / files[0])
    return Description(saved, name, kind, files, None, table, family, segmenter="jieba" if words else None)


def _table(saved: Saved, kind: str, family: str | None, card: "Card | None") -> str | None:
    stated = saved.command_table or _class_table(saved)
    if stated is not None:
        return stated
    if kind == "sentencepiece":
        return _chinese_table(saved, card)
    if kind == "bpe":
        return _bpe_table(saved, family)
    return {"wordpiece": "wordpiece", "t5": "t5"}.get(kind)


def _class_table(saved: Saved) -> str | None:
    return None if saved.class_name is None else CLASSES[saved.class_name].table


def _chinese_table(saved: Saved, card: "Card | None") -> str:
    """Whether [gMASK] of Chinese GLM has an id of its own."""
    stated = {entry.content: entry.number for entry in saved.added.stated}
    if _G_MASK in stated:
        return "unfixed" if stated[_G_MASK] == stated.get("<|endofpiece|>") else "fixed"
    if "auto_map" in saved.config.table or "auto_map" in saved.options.table:
        return "fixed"  # Hugging Face's GLM has no other
    own = None if card is None else card.tokenizer.command_table
    source = "no name says it" if own is None else f"the name {card.name!r} decides" if card is not None else ""
    logger.info("%s does not say which id [gMASK] has; %s: the table %r.", saved.folder, source, own or "fixed")
    return own or "fixed"


def _bpe_table(saved: Saved, family: str | None) -> str:
    """GPT-2's vocabulary has GLM's command tokens behind it, or none; RoBERTa's own tokens are in the vocabulary."""
    if saved.family is None and family is not None:
        logger.info("%s does not say whose vocabulary it is; the name decides: %s.", saved.folder, family)
    if family != "glm":
        return "gpt2"
    return "glm-roberta" if _is_roberta(saved.folder) else "glm-bpe"


def _is_roberta(folder: Path) -> bool:
    from flagai.data.tokenizer.byte_bpe import read_vocabulary

    return bool(_present(folder, "bpe")) and {"<s>", "</s>", "<mask>"} <= set(read_vocabulary(folder / _BPE_FILES[0]))


def _is_t5(saved: Saved) -> bool:
    """T5's SentencePiece models begin with <pad>, </s>; GLM's have no <pad> at all."""
    from flagai.data.tokenizer.sentencepiece_engine import load_sentencepiece

    if saved.family is not None:
        return saved.family == "t5"
    processor = load_sentencepiece(saved.folder / _present(saved.folder, "sentencepiece")[0])
    return bool(processor.pad_id() == 0 and processor.eos_id() == 1)


def _has_words(path: Path) -> bool:
    """Whether a vocabulary has Chinese words, as that of T5-PEGASUS, which cuts text into words first."""
    from flagai.data.tokenizer.text import has_words
    from flagai.data.tokenizer.wordpiece import read_tokens

    return has_words(read_tokens(path))


def _known_family(saved: Saved, card: "Card | None") -> str | None:
    return saved.family or (None if card is None else card.family)


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
