"""Where a tokenizer's files are, and what tokenizer they make: as they say; what they leave open, the name decides."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from flagai import settings
from flagai.catalog import catalog
from flagai.catalog.card import Card
from flagai.catalog.packages import any_case, package_folder
from flagai.data.tokenizer.chatglm_folder import chatglm_description
from flagai.data.tokenizer.description import (
    BPE_FILES,
    FILES,
    G_MASK,
    Description,
    class_table,
    has_tokenizer,
    present_files,
)
from flagai.data.tokenizer.saved import CLASSES, FAST_FILE, Saved
from flagai.data.tokenizer.text import has_words
from flagai.data.tokenizer.vocabulary import load_sentencepiece, read_tokens, read_vocabulary
from flagai.errors import ModelNotFoundError, VocabularyError

logger = logging.getLogger(__name__)
_KINDS = {"SentencePiece": "sentencepiece", "WordPiece": "wordpiece", "BPE": "bpe", "Unigram": "t5"}
# The class of a vocabulary that transformers has written, where no file names it.
_CLASS_OF_KIND = {"wordpiece": "BertTokenizer", "bpe": "GPT2Tokenizer", "t5": "T5Tokenizer"}
_ROBERTA_TOKENS = {"<s>", "</s>", "<mask>"}


class Location(NamedTuple):
    """A folder with a tokenizer."""

    folder: Path
    card: Card | None  # of the model


def find_card(name: str) -> Card | None:
    """The card of a model, or None if the catalog does not know the name."""
    try:
        return catalog.find(name.partition("@")[0])  # the revision of a repository
    except ModelNotFoundError:
        return None


def locate(name: str, cache_dir: str | Path | None) -> Location:
    """Find the folder of a tokenizer, and fetch its files if they are not here.

    A model that was fine-tuned from another one uses the other one's tokenizer, unless its own folder has one.
    """
    from flagai.hub.repository import fetch_repository

    home = settings.home() if cache_dir is None else Path(cache_dir).expanduser()
    fetched = fetch_repository(name, cache_dir, ("config", "tokenizer"))
    if fetched is not None:
        return Location(fetched, find_card(name.rpartition(":")[2]))
    card = find_card(name) or find_card(Path(name).name)
    base = find_card(card.base) if card is not None and card.base is not None else None
    known = [each for each in (card, base) if each is not None]
    own, path = any_case(home, name), Path(name).expanduser()
    places = [own, *(any_case(home, each.name) for each in known)]
    places += [home] * (home.name.lower() == name.lower())  # the model's own folder instead of the one above
    places += [folder for each in known if (folder := package_folder(each)) is not None]
    found = next(filter(has_tokenizer, places), path if path.is_dir() else None)
    if found is not None or (own.is_dir() and not known):
        return Location(found or own, card)
    if known:
        from flagai.hub import ensure

        return Location(ensure(known[-1], any_case(home, known[-1].name), wanted=("tokenizer",)), card)
    try:
        return Location(own, catalog.find(name))
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"There is no folder {own.absolute()}. {error}") from error


def describe(folder: Path, name: str, card: Card | None) -> Description:
    """Find out what a folder's tokenizer is; the card of its name counts only where the files leave something open."""
    if not has_tokenizer(folder):
        raise ModelNotFoundError(_absent(folder, name, card))
    saved = Saved.read(folder)
    card = _fitting(card, saved)
    found = (
        chatglm_description(saved, name, card) or _of_transformers(saved, name, card) or _of_table(saved, name, card)
    )
    return replace(found, language=None if card is None else card.language)


def _fitting(card: Card | None, saved: Saved) -> Card | None:
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


def _of_transformers(saved: Saved, name: str, card: Card | None) -> Description | None:
    """A folder that transformers has written, or None."""
    class_name, files = saved.class_name, present_files(saved.folder, "fast")
    if saved.command_table or (class_table(saved) if class_name else saved.family == "glm"):
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


def _of_class(saved: Saved, name: str, card: Card | None, class_name: str | None) -> Description | None:
    """A folder with the vocabulary's own files, as transformers wrote them before version 5."""
    kinds = ["t5", "wordpiece", "bpe"] if class_name is None else [_KINDS[CLASSES[class_name].model]]
    kind = next((kind for kind in kinds if present_files(saved.folder, kind)), None)
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
        present_files(saved.folder, kind),
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


def _of_table(saved: Saved, name: str, card: Card | None) -> Description:
    """A folder of a model whose command tokens are in a table."""
    kinds = [] if card is None or card.tokenizer.kind not in ("wordpiece", "bpe") else [card.tokenizer.kind]
    if saved.class_name is not None and CLASSES[saved.class_name].table is not None:
        kinds = [_KINDS[CLASSES[saved.class_name].model]]
    if present_files(saved.folder, "sentencepiece"):
        kinds.append("t5" if _is_t5(saved) else "sentencepiece")
    kind = next(kind for kind in (*kinds, "wordpiece", "bpe", "fast") if present_files(saved.folder, kind))
    family = _known_family(saved, card) or ("glm" if kind == "sentencepiece" else None)
    if kind == "sentencepiece" and family != "glm":
        raise VocabularyError(
            f"{saved.folder}: the SentencePiece vocabulary of a {family} is read from tokenizer.json only. Write one: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    files = present_files(saved.folder, kind)
    kind = _fast_kind(saved) if kind == "fast" else kind
    table = _table(saved, kind, family, card)
    # T5-PEGASUS, whose vocabulary has words, cuts text into words first.
    own = family == "t5" and kind == "wordpiece" and files != (FAST_FILE,)
    words = own and has_words(read_tokens(saved.folder / files[0]))
    return Description(saved, name, kind, files, None, table, family, segmenter="jieba" if words else None)


def _table(saved: Saved, kind: str, family: str | None, card: Card | None) -> str | None:
    stated = saved.command_table or class_table(saved)
    if stated is not None:
        return stated
    if kind == "sentencepiece":
        return _chinese_table(saved, card)
    return _bpe_table(saved, family) if kind == "bpe" else kind if kind in ("wordpiece", "t5") else None


def _chinese_table(saved: Saved, card: Card | None) -> str:
    """Whether [gMASK] of Chinese GLM has an id of its own."""
    stated = {entry.content: entry.number for entry in saved.added.stated}
    if G_MASK in stated:
        return "unfixed" if stated[G_MASK] == stated.get("<|endofpiece|>") else "fixed"
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
    return bool(present_files(folder, "bpe")) and read_vocabulary(folder / BPE_FILES[0]).keys() >= _ROBERTA_TOKENS


def _is_t5(saved: Saved) -> bool:
    """T5's SentencePiece models begin with <pad>, </s>; GLM's have no <pad> at all."""
    if saved.family is not None:
        return saved.family == "t5"
    processor = load_sentencepiece(saved.folder / present_files(saved.folder, "sentencepiece")[0])
    return bool(processor.pad_id() == 0 and processor.eos_id() == 1)


def _known_family(saved: Saved, card: Card | None) -> str | None:
    return saved.family or (None if card is None else card.family)


def _absent(folder: Path, name: str, card: Card | None) -> str:
    wanted = card.tokenizer.files if card is not None else ("vocab.txt", "vocab.json + merges.txt", "spiece.model")
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) if folder.is_dir() else "no such folder"
    cure = f"Type: flagai download {card.name}, or put" if card is not None else "Put"
    return (
        f"{folder.absolute()} has no tokenizer for {name!r}: expected {', '.join(wanted)} or {FAST_FILE}. {cure} the "
        f"files there. Found: {found or 'an empty folder'}."
    )
