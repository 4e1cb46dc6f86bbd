"""One tokenizer class for every model."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from flagai.checkpoint.steady import read_one_version
from flagai.checks import check_path
from flagai.data.tokenizer import formats
from flagai.data.tokenizer.building import Built, build
from flagai.data.tokenizer.chatglm_folder import CHAT_TABLES
from flagai.data.tokenizer.description import Description
from flagai.data.tokenizer.detection import Location, describe, find_card, locate
from flagai.data.tokenizer.encoding import Encoding
from flagai.data.tokenizer.flagai_names import FlagAINames
from flagai.data.tokenizer.text import clean, is_chinese, token_bytes
from flagai.errors import InputError, VocabularyError
from flagai.hub.repository import with_revision

_MOST_ROWS = 2**24
_Token = TypeVar("_Token")


class Tokenizer(FlagAINames):
    """Text to token ids and back, built by :meth:`from_pretrained` from a description of a vocabulary's files.

    Several threads can use one, and it can be sent to other processes.

    Literal command tokens in a text, such as "[gMASK]", become their ids. FlagAI's methods are in ``flagai_names.py``.

    Example:
        >>> Tokenizer.from_pretrained("GLM-mini-ch").encode("春眠不觉晓")
        [2052, 3263, 154, 4468, 2069]
    """

    def __init__(self, description: Description, built: Built) -> None:
        self.description = description
        self._engine = built.engine
        self._commands = built.commands
        self.command_ids = built.commands.special_ids
        self.truncation_side = description.truncation_side

    @classmethod
    def from_pretrained(
        cls,
        tokenizer_model_name: str,
        cache_dir: str | Path | None = None,
        *,
        fix_command_token: bool | None = None,
        segmenter: str | None = None,
        revision: str | None = None,
        **redundant: Any,  # noqa: ARG003  # FlagAI's callers pass them
    ) -> Self:
        """Load the tokenizer of a model, and fetch its files, and no others, if they are not here.

        Args:
            tokenizer_model_name: the model's name, in any case, its folder, or a repository such as "owner/name" or
                "modelscope:owner/name". A fine-tuned model has its base's.
            cache_dir: the model directory; default ``FLAGAI_HOME``.
            fix_command_token: for Chinese GLM, whether [gMASK] has a row of its own; default: as the model was trained.
            segmenter: for T5-PEGASUS, "jieba" (as it was trained) or "characters".
            revision: the commit, branch or tag of a repository.
            redundant: other arguments of FlagAI's method, which have no effect.

        Raises:
            ModelNotFoundError: there is no such folder, and the catalog has no such name.
            HubError: the files cannot be fetched.
            VocabularyError: a file is damaged.
            ConfigError: something that is needed is not installed.
        """
        check_path("tokenizer_model_name", tokenizer_model_name)
        check_path("cache_dir", "" if cache_dir is None else cache_dir)
        location = locate(str(with_revision(tokenizer_model_name, revision)), cache_dir)
        return cls._from_location(location, location.folder.name, fix_command_token, segmenter)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        name: str | None = None,
        *,
        fix_command_token: bool | None = None,
        segmenter: str | None = None,
    ) -> Self:
        """Load a tokenizer from a folder as :meth:`from_pretrained` does, but fetch nothing.

        Args:
            folder: the files.
            name: the model's name, if the folder is called otherwise.
            fix_command_token: as in :meth:`from_pretrained`.
            segmenter: as in :meth:`from_pretrained`.
        """
        folder = check_path("folder", folder)
        name = str(check_path("name", name)) if name else folder.resolve().name
        return cls._from_location(Location(folder, find_card(name)), name, fix_command_token, segmenter)

    @classmethod
    def _from_location(
        cls, location: Location, name: str, fix_command_token: bool | None, segmenter: str | None
    ) -> Self:
        def read() -> tuple[Description, Built]:
            own_name = name if location.card is None else location.card.name
            description = describe(location.folder, own_name, location.card).changed(fix_command_token, segmenter)
            return description, build(description)

        return cls(*read_one_version(location.folder, read))

    @property
    def kind(self) -> str:
        """What it is: "sentencepiece", "wordpiece", "bpe", "tiktoken", "t5" or "fast"."""
        return self.description.kind

    @property
    def language(self) -> str | None:
        """The language of the model: "zh", "en" or None."""
        chinese = self.description.language is None and is_chinese(self.get_vocab())
        return "zh" if chinese else self.description.language

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"Tokenizer({self.description.name!r}, kind={self.kind!r}, vocab_size={self.vocab_size})"

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens around it; see :meth:`encode_many`."""
        return self._engine.encode_ids(clean([text]))[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, without special tokens around them."""
        return self._engine.encode_ids(clean(texts))

    def encode_ordinary(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts in which the names of special tokens are ordinary text: what users of a chat write.

        Raises:
            InputError: an element is not text.
        """
        rows = self._engine.encode_ordinary(clean(texts))
        commands = self.command_ids - {self._engine.find("<unk>"), self.find_command_id("unk")}
        if any(not commands.isdisjoint(row) for row in rows):
            raise VocabularyError(
                f"{self.description.paths[0]} writes a special token as a piece of ordinary text, so that texts of "
                "users would be taken for commands. Fetch the tokenizer's files again."
            )
        return rows

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """The ids of many texts, with tokens and their places in the original texts."""
        return self._engine.encode(clean(texts))

    def encode_plus(
        self,
        text: str | None = None,
        second_text: str | None = None,
        target_text: str | None = None,
        truncation: bool = True,
        max_length: int | None = None,
        padding: bool = True,
        *,
        source_text: str | None = None,
    ) -> dict[str, Any]:
        """A model's input as lists.

        BERT and T5-PEGASUS: ``[CLS] text [SEP]``, ``[CLS] text [SEP] second [SEP]``, with ``token_type_ids``. GLM:
        ``<|startofpiece|> text [SEP] target`` with positions, ``loss_mask`` and ``target_ids``. T5: ``text </s>``.
        GPT-2: the text alone.

        Args:
            text: the (first) text.
            second_text: the second text; for GLM the target.
            target_text: the same; FlagAI has a name for each.
            truncation: whether ``max_length`` is kept, by dropping tokens of the longer text, at its end unless
                ``truncation_side`` says otherwise.
            max_length: at most so many ids, command tokens included.
            source_text: another name of ``text``, FlagAI's for GLM.
            padding: for GLM with a target and ``max_length``, pad as FlagAI does: before ``<|endofpiece|>``.

        Raises:
            InputError: it is not text, or ``max_length`` cannot be kept.
        """
        formats.check_max_length(max_length)
        text = source_text if text is None else text
        texts = [entry for entry in (text, second_text if target_text is None else target_text) if entry is not None]
        if text is None:
            raise InputError("encode_plus needs a text, but got None.")
        rows = self._engine.encode_ids(clean(texts))
        limit = max_length if truncation else None
        if self.description.family == "glm":
            return formats.causal_glm(self.get_command_id, rows, limit, self.truncation_side, padding=padding)
        frame = self.frames[len(rows) - 1]
        rows = rows if limit is None else self.cut(rows, limit - frame.specials)
        ids = frame.ids(rows)
        found = {"input_ids": ids, "token_type_ids": frame.types(rows), "attention_mask": [1] * len(ids)}
        return {name: found[name] for name in self._inputs}

    @cached_property
    def frames(self) -> formats.Frames:
        """The special tokens that belong around one text, and around two."""
        if self.description.table is None:
            from flagai.data.tokenizer.rust_engine import RustEngine, frames_of

            assert isinstance(self._engine, RustEngine)  # noqa: S101  # all that are built as transformers does
            alone, pair = frames_of(self._engine.tokenizer)
            return (alone, pair) if "token_type_ids" in self.description.inputs else (alone.untyped, pair.untyped)
        if self.description.table in CHAT_TABLES:
            return formats.chatglm(self.description.table, self.get_command_id)
        cls, sep, eos = (self.find_command_id(name) for name in ("cls", "sep", "eos"))
        if self.kind == "t5" and eos is not None:
            return formats.with_eos(eos)
        return formats.plain(eos) if cls is None or sep is None else formats.with_ends(cls, sep)

    def cut(self, rows: Sequence[Sequence[_Token]], limit: int) -> list[list[_Token]]:
        """Rows of tokens of one text or two, cut to a limit: one by one from the longer one, on ``truncation_side``."""
        # transformers' rule, or FlagAI's
        lengths = formats.kept_lengths(list(map(len, rows)), limit, odd_to_longer=self.description.table is None)
        return [formats.cut(row, length, self.truncation_side) for row, length in zip(rows, lengths, strict=True)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ids, also of a one-dimensional tensor; ``skip_special_tokens`` leaves command tokens out.

        Ids that only fill up an embedding, as an untrained model may choose them, give nothing.
        """
        numbers = self._checked(ids)
        unused = set(self.rows_without_token(max(numbers, default=0) + 1))
        hidden = self.command_ids if skip_special_tokens else ()
        return self._engine.decode([number for number in numbers if number not in unused], hidden)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """What each token writes, by its id; nothing for special tokens."""
        plain = {token.Id: token.token for token in self._commands.tokens if not token.special}
        return token_bytes(self.get_vocab(), plain, self.command_ids, self.kind)

    def pattern(self, text: str) -> bytes:
        """A text as `token_bytes` writes it, however it is cut into tokens."""
        return self._engine.normal(clean([text])[0]).encode()

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """The bytes that ids stand for together, in the form of :meth:`pattern`."""
        return b"".join(self.token_bytes[number] for number in self._checked(ids) if number < len(self.token_bytes))

    def has_command(self, text: str, names: Iterable[str]) -> bool:
        """Whether a text has a command token of one of these names, without tokenizing it."""
        (text,) = clean([text])
        ids = {number for name in clean(names) if (number := self.find_command_id(name)) is not None}
        literal = {token.token for token in self._commands.tokens if token.Id in ids}
        literal |= {self._engine.token(number) for number in ids} - {""}
        return any(token in text for token in literal)

    def find_token(self, token: str) -> int | None:
        """The id of a token of the vocabulary, or None if there is none."""
        (known,) = clean([token])
        return self._engine.find(known) if known else None

    def can_write(self, text: str) -> bool:
        """Whether the vocabulary has tokens for all of a text; it has none for spaces alone."""
        ids = self.encode(text)
        return bool(ids) and {self._engine.find("<unk>"), self.find_command_id("unk")}.isdisjoint(ids)

    def rows_without_token(self, rows: int) -> list[int]:
        """The ids below ``rows`` that stand for nothing: rows that fill up an embedding, or were never used.

        Raises:
            InputError: the vocabulary has more ids than ``rows``.
        """
        if not isinstance(rows, int) or not 0 <= rows <= _MOST_ROWS:
            raise InputError(f"rows is {rows!r:.80}; expected an integer of at most {_MOST_ROWS:,}.")
        beyond = (number for number in range(self._engine.size, rows) if number not in self._commands.by_id)
        return [number for number in beyond if not self._engine.token(number)]

    def rows_needed(self, *, commands: bool) -> int:
        """How many rows an embedding must have at least, with or without command tokens behind the vocabulary."""
        highest = max((token.Id for token in self._commands.tokens), default=-1) + 1
        return max(self._engine.size, highest if commands else 0)

    def decode_batch(self, rows: Iterable[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        """The texts of many rows of ids; ``skip_special_tokens`` leaves command tokens out.

        Raises:
            InputError: a row is not a sequence of ids.
        """
        try:
            rows = list(rows)
        except TypeError as error:
            raise InputError(f"decode_batch takes a list of rows of ids, but got {rows!r:.80}.") from error
        return [self.decode(row, skip_special_tokens) for row in rows]

    @property
    def _inputs(self) -> tuple[str, ...]:
        """The names of what :meth:`encode_plus` gives."""
        if self.description.table is None:
            return self.description.inputs
        # FlagAI's BERT has no mask, and its T5 and GPT-2 have no types.
        return ("input_ids", "token_type_ids" if self.frames[0].surrounds else "attention_mask")
