"""What a tokenizer is, before its vocabulary is read."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flagai.data.tokenizer.saved import BESIDE, CLASSES, FAST_FILE, OPTIONS_FILE, TABLE_KEY, Saved
from flagai.errors import ConfigError

RANKS_FILE = "tokenizer.model"  # also the name of SentencePiece models
SENTENCEPIECE_FILES = ("cog-pretrain.model", "spiece.model", "sentencepiece.bpe.model", RANKS_FILE)
ICE_FILE = "ice_text.model"
BPE_FILES = ("vocab.json", "merges.txt")
_WORDPIECE_FILES = ("vocab.txt",)
# The file lists of every kind, the best first; a kind is possible where all files of one list are there.
FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    "sentencepiece": tuple((name,) for name in SENTENCEPIECE_FILES),
    "t5": tuple((name,) for name in reversed(SENTENCEPIECE_FILES)),
    "wordpiece": (_WORDPIECE_FILES,),
    "bpe": (BPE_FILES,),
    "fast": ((FAST_FILE,),),
    "ice": ((ICE_FILE,),),
}
G_MASK = "[gMASK]"
SIDES = ("right", "left")
SEGMENTERS = ("jieba", "characters")
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


@dataclass(frozen=True)
class Description:
    """What a tokenizer is, before its vocabulary is read."""

    saved: Saved  # the folder's JSON files
    name: str  # the model's name
    # "sentencepiece" (Chinese GLM, ChatGLM), "wordpiece", "bpe", "tiktoken" (GLM-4), "t5" or "fast" (any other
    # `tokenizer.json`).
    kind: str
    files: tuple[str, ...]  # the files of the vocabulary
    class_name: str | None = None  # the class of transformers that it is, if it is one
    # The table of command tokens of FlagAI's and THUDM's models; None: as transformers' files say.
    table: str | None = None
    family: str | None = None  # the model's family, if it is known
    language: str | None = None  # "zh", "en" or None
    segmenter: str | None = None  # "jieba" where text is cut into words first

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
        """Where tokens are dropped, "right" or "left", as ``tokenizer_config.json`` or ``tokenizer.json`` says."""
        options, truncation = self.saved.options, self.saved.pipeline.table.get("truncation")
        written = truncation.get("direction") if isinstance(truncation, dict) else None
        side = options.text("truncation_side", None) or str(written or "right").lower()
        if side not in SIDES:
            options.fail("truncation_side", f"{side!r:.80}, expected one of {', '.join(SIDES)}.")
        return side

    @property
    def decided(self) -> dict[str, str]:
        """What ``tokenizer_config.json`` has to say where a name or a caller decided which command tokens there are."""
        stated = G_MASK in {entry.content for entry in self.saved.added.stated} and self.kind == "sentencepiece"
        open_ = self.table is not None and self.kind != "t5" and not stated and class_table(self.saved) is None
        return {TABLE_KEY: str(self.table)} if open_ else {}

    def portable_files(self) -> dict[str, bytes]:
        """The tokenizer's files by name, for any folder: what this folder's name decided is written in them."""
        names = dict.fromkeys((*self.files, FAST_FILE, *BESIDE))
        found = {name: path.read_bytes() for name in names if (path := self.folder / name).is_file()}
        if self.decided:
            options = {**self.saved.options.table, **self.decided}
            found[OPTIONS_FILE] = json.dumps(options, ensure_ascii=False, indent=2).encode()
        return found

    def changed(self, fix_command_token: bool | None, segmenter: str | None) -> "Description":
        """The description with what a caller wants otherwise."""
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
    return any(present_files(folder, kind) for kind in FILES)


def present_files(folder: Path, kind: str) -> tuple[str, ...]:
    """The files of a kind that the folder has; none if one is missing."""
    return next((files for files in FILES[kind] if all((folder / name).is_file() for name in files)), ())


def class_table(saved: Saved) -> str | None:
    """The table of command tokens of the class that the files name."""
    return None if saved.class_name is None else CLASSES[saved.class_name].table
